"""`web`: the report's page live, with a playground and buttons, for the one person who was given its address."""
