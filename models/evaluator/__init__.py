"""The text-motion matching networks (T2M, Guo et al. 2022) that motion generation is measured with."""
