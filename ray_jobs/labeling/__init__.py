"""The stages of ``label``: list the worklist, detect faces, write and update labels."""
