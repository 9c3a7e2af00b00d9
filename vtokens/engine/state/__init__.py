"""What the engine keeps, by how long it lives: types only, no stage and no hook."""
