"""A test pack for ComfyUI: the digest of a conditioning, a node that fails, the server's state."""

import copy
import gc
import hashlib
import time

import comfy.model_management
import comfy.model_patcher
import comfy.sd
import comfy.sd1_clip
import execution
import folder_paths
import nodes
import torch
from aiohttp import web
from server import PromptServer

from . import host_residue as residue


class Digest:
    CATEGORY, FUNCTION, RETURN_TYPES, OUTPUT_NODE = "test", "run", (), True

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"conditioning": ("CONDITIONING",)}}

    @classmethod
    def IS_CHANGED(cls, **_):
        return time.time()

    def run(self, conditioning):
        digest = hashlib.sha256()
        for states, facts in conditioning:
            for value in (states, facts.get("pooled_output")):
                if value is not None:
                    digest.update(value.float().cpu().contiguous().numpy().tobytes())
            digest.update(repr((facts.get("start_percent"), facts.get("end_percent"))).encode())
        return {"ui": {"text": [digest.hexdigest()]}}


class Fails:
    CATEGORY, FUNCTION, RETURN_TYPES = "test", "run", ("CONDITIONING",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"conditioning": ("CONDITIONING",)}}

    def run(self, conditioning):
        raise RuntimeError("broken on purpose")


def state():
    """All that has to be the same before and after, and the memory."""
    server = PromptServer.instance
    clips = [thing for thing in gc.get_objects() if type(thing) is comfy.sd.CLIP]
    owners = (
        comfy.sd.CLIP,
        comfy.sd1_clip.SDTokenizer,
        comfy.sd1_clip.SD1Tokenizer,
        comfy.sd1_clip.SDClipModel,
        comfy.sd1_clip.SD1ClipModel,
        comfy.model_patcher.ModelPatcher,
        execution.PromptExecutor,
        execution.PromptQueue,
        nodes.CLIPTextEncode,
        nodes.KSampler,
        PromptServer,
        *(comfy.model_management, folder_paths, nodes, copy),
    )
    return {
        **residue.everywhere(),
        "classes": residue.attributes(*owners),
        "random": residue.randomness(),
        "alive": residue.alive(
            *("CLIP", "ModelPatcher", "VAE", "SD1Tokenizer", "SDTokenizer", "SD1ClipModel"),
            *("PrefixedSD1Tokenizer", "PrefixedSDTokenizer"),
        ),
        "clips": sorted(described(clip) for clip in clips),
        "networks": [residue.network(clip.cond_stage_model) for clip in clips],
        "server": {
            "before prompts": len(server.on_prompt_handlers),
            "nodes": len(nodes.NODE_CLASS_MAPPINGS),
            "loaded": len(comfy.model_management.current_loaded_models),
            "history": len(server.prompt_queue.history),
            "queued": server.prompt_queue.get_tasks_remaining(),
            "inference": torch.is_inference_mode_enabled(),
        },
    }


def described(clip):
    inner = [one for one in vars(clip.tokenizer).values() if hasattr(one, "embedding_size")]
    tokenizers = [clip.tokenizer, *inner]
    parts = [residue.keys(one) for one in (clip, *tokenizers, clip.patcher, clip.cond_stage_model)]
    patcher = clip.patcher
    return [*parts, sorted(patcher.object_patches), len(patcher.patches), len(patcher.backup)]


@PromptServer.instance.routes.get("/residue")
async def get_state(_request):
    return web.json_response(state())


@PromptServer.instance.routes.get("/residue/memory")
async def get_memory(_request):
    gc.collect()
    return web.json_response(residue.megabytes())


NODE_CLASS_MAPPINGS = {"TestDigest": Digest, "TestFails": Fails}
