"""VILA 1.5 as published, in three folders: SigLIP on one or several scales, 2 x 2 places merged into a visual token."""
