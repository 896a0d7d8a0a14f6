"""Lists what prepare.py reads: a Source for each video, photo or folder of frames, with label, method, id and split.

One file per data set: ffpp.py (FaceForensics++), celebdf.py (Celeb-DF v2), dfdc.py, and real_fake.py for any other
folder with real/ and fake/. index_files.py lists what an index file of DeepfakeBench or RECCE names instead.

To add a data set, write a module with two functions and add it to LAYOUTS in finding.py:

    is_tree(root) -> bool                           whether the folder has this layout
    list_sources(root, selection) -> list[Source]   every video that the layout names, its file present or missing

finding.py then checks names and ids, and keeps the methods and splits that are wanted.
"""
