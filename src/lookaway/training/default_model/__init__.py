"""How `lookaway-mini` is made: tower (sees), projector (speaks), alignment (answers), judge (measures)."""
