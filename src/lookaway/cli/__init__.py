"""The door from outside: one small module a command."""
