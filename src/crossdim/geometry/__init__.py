"""Where voxels lie in the patient."""
