"""Floor 2: plain nn.Modules: exit gates and adapters."""
