"""Entry point of the group ``verl.plugins``: importing this module is what activates the CPU platform."""

from recipe.cxr_grpo.cpu import enabled

if enabled():
    from recipe.cxr_grpo.cpu import hf_rollout, pictures, platform, shims, vision

    shims.apply()
    platform.register()
    hf_rollout.register()
    pictures.register()
    vision.register()
