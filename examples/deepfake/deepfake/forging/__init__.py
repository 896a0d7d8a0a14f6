"""Makes forged clips from portraits: people and pairs, forged stills, camera motion, video files."""
