"""Published models' shapes with random weights: speed is measured on them without any download."""
