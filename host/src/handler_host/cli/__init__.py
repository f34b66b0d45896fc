"""The command line, ``handler-host COMMAND``: the only package that prints and that sets an exit status.

``main`` parses the arguments and runs the command, ``commands`` has one module for each command.
The other modules are shared by several commands.
"""
