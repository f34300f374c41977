"""Human motion processing: skeletons, rotations, motion features, foot contacts and BVH."""
