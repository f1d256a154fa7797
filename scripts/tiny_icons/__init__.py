"""The base that memsieve's benchmark fine-tunes: a tiny Stable Diffusion pipeline of icons, none of them OpenMoji's."""
