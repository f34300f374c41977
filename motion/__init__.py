"""Human motion as numbers: skeletons, rotations, the feature representation, foot contact, BVH."""
