"""How true a picture is to another: full-reference measures, fast enough for a search's loop."""
