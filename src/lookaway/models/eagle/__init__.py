"""Eagle as published: five vision towers beside each other in front of a Vicuna (Eagle-X5)."""
