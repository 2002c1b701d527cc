"""`lookaway fit`: the cheapest policy that keeps a model's answers, found on one split and certified on another."""
