"""The commands: one module each, with ``DESCRIPTION``, ``EXAMPLES``, ``add_arguments`` and ``run``.

At the top a module imports only what its ``--help`` needs. ``run`` imports the rest: the HTTP
client, the catalog and the server take up to half a second.
"""
