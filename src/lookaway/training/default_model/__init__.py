"""How `lookaway-mini` is made: tower (sees), projector (speaks), alignment (answers), evaluation (measures)."""
