"""Who may ask for what: consumers, operators, and the log of what operators did."""
