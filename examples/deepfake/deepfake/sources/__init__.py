"""What prepare.py reads: FaceForensics++, Celeb-DF, DFDC, real/fake folders, index files."""
