"""The plugin for lmms-eval, the field's harness: the model `lookaway`, and `lookaway eval --tasks` on top of it.

lmms-eval is an extra of its own (`dev/install-lmms`); nothing else in lookaway imports this package.
"""
