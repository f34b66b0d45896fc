"""Who decides about a handler: the rules, its owner, its generations, and all handlers together."""
