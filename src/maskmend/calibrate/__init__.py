"""What a run learns on its validation patients, once, so that the guard can be trusted."""
