"""`lookaway serve --ray`: the application in Ray Serve."""
