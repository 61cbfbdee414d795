"""Two-player board games: rules, batched games, the stream of self-play, players."""
