"""Git and DVC: revisions, clones, the cache, remotes, and the one parser of dvc.lock."""
