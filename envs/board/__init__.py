"""Two-player board games: rules, batched games, envs, fixed opponents."""
