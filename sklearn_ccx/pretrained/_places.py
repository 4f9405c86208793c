"""Where a dictionary reads, in the words of this package, and what that allows."""

import re
from dataclasses import dataclass

# The parts of a block, as `sklearn_ccx.lm.site_names` calls them.
_SITES = ("resid_pre", "resid_mid", "resid_post", "mlp_in", "attn_in")

# What writes there is no input of an MLP.
_OUTPUTS = {
    "mlp_out": "the output of an MLP",
    "attn_out": "the output of attention",
    "hook_z": "the heads of attention",
    "neurons": "the neurons of an MLP",
    "update": "what a layer adds to the residual stream",
}

# Blocks that run attention and MLP side by side on the same residual stream.
_PARALLEL = re.compile(r"pythia|gpt-?j|gpt-?neox|phi-(1|2)|falcon", re.IGNORECASE)

_N = r"(?P<block>\d+)"
_HF_BLOCK = rf"(?:.*\.)?(?:layers|h|layer|blocks)\.{_N}"

# Names of hooks, of modules and of folders, and the part of the block they mean.
_NAMES = [
    (rf"blocks\.{_N}\.hook_resid_(?P<site>pre|mid|post)", "resid_{site}"),
    (rf"blocks\.{_N}\.mlp\.hook_in", "mlp_in"),
    (rf"blocks\.{_N}\.ln2\.hook_normalized", "normed"),
    (rf"blocks\.{_N}\.hook_mlp_out", "mlp_out"),
    (rf"blocks\.{_N}\.mlp\.hook_(post|pre)", "neurons"),
    (rf"blocks\.{_N}\.(hook_attn_out|attn\.hook_(attn_out|out|result))", "attn_out"),
    (rf"blocks\.{_N}\.attn\.hook_z", "hook_z"),
    (
        rf"blocks\.{_N}\.(?P<site>resid_pre|resid_mid|resid_post|mlp_in|attn_in)",
        "{site}",
    ),
    (rf"{_HF_BLOCK}(\.output)?", "resid_post"),
    (rf"{_HF_BLOCK}\.input", "resid_pre"),
    (rf"{_HF_BLOCK}\.pre_feedforward_layernorm\.output", "mlp_in"),
    (rf"{_HF_BLOCK}\.mlp\.input", "mlp_in"),
    (rf"{_HF_BLOCK}\.(mlp|post_feedforward_layernorm)(\.output)?", "mlp_out"),
    (rf"{_HF_BLOCK}\.(self_attn|attn|attention)(\.output)?", "attn_out"),
    (rf"{_HF_BLOCK}\.(self_attn|attn|attention)\.\w*proj\.input", "hook_z"),
    (rf"resid_post_layer_{_N}", "resid_post"),
    (rf"resid_pre_layer_{_N}", "resid_pre"),
    (rf"mlp_out_layer_{_N}", "mlp_out"),
    (rf"(attn|attention)_out_layer_{_N}", "attn_out"),
]


@dataclass(frozen=True)
class Place:
    """A part of a block of a network.

    Attributes
    ----------
    site : str or None
        One of the sites of a block; "normed" for the normalised residual stream before
        the norm's scale and shift; "mlp_out", "attn_out", "hook_z", "neurons" or
        "update" for what is no input of an MLP. None if that is not known.
    block : int or None
        Index of the block.
    hook_name : str or None
        What the files call it.
    """

    site: str | None = None
    block: int | None = None
    hook_name: str | None = None

    @property
    def reads(self) -> str | None:
        """The name of the site in this package, or what the files call it."""
        if self.site in _SITES and self.block is not None:
            return f"blocks.{self.block}.{self.site}"
        return self.hook_name

    @property
    def is_output(self) -> bool:
        """Whether its decoder writes to no input of an MLP."""
        return self.site in _OUTPUTS

    def interaction(
        self, model_name: str | None, sample_norm: str | None = None
    ) -> str:
        """Where the interaction of its features can be measured, in a sentence.

        Parameters
        ----------
        model_name : str or None
            The model.
        sample_norm : {"layer_norm", "constant_norm"} or None
            What the dictionary does to each sample first.
        """
        where = self._neurons(model_name)
        if sample_norm is None or self.is_output or None in (self.site, self.block):
            return where
        if self.site == "mlp_in":
            return (
                "not exactly: the dictionary normalises each sample, and the MLP reads "
                "it as it is"
            )
        if sample_norm == "layer_norm":
            return (
                f"{where}. A LayerNorm gives the same for normalised samples as for X, "
                "up to its eps; an RMSNorm does not"
            )
        return f"{where}. It gives the same for normalised samples as for X"

    def _neurons(self, model_name: str | None) -> str:
        """Where the features meet neurons."""
        block, site = self.block, self.site
        if site in _OUTPUTS:
            return (
                f"nowhere: it reads {_OUTPUTS[site]}, and its decoder does not write "
                "to the input of an MLP"
            )
        if site is None or block is None:
            return "not known: the files do not say where it reads"
        if site == "mlp_in":
            return f"at the MLP of block {block}, as it is"
        if site == "normed":
            return (
                f"at the MLP of block {block}, with the scale of its norm folded into "
                "W_in and its shift into b_in"
            )
        if site == "resid_mid":
            return (
                f"at the MLP of block {block}, behind its norm (`norm` of MLPWeights)"
            )
        if site == "attn_in":
            return "not known: it reads what attention reads"
        reader = block + 1 if site == "resid_post" else block
        if model_name is not None and _PARALLEL.search(model_name):
            return (
                f"at the MLP of block {reader}, which reads the same stream as its "
                "attention, behind its norm (`norm` of MLPWeights)"
            )
        return (
            f"on the direct path to the MLP of block {reader} only: what its attention "
            "adds in between is no part of the features"
        )


UNKNOWN = Place()


def place_of(hook_name: str | None, block: int | None = None) -> Place:
    """What the name of a hook, a module or a folder means.

    Parameters
    ----------
    hook_name : str or None
        The name, in any of the ways of the formats.
    block : int or None
        The block, where the name does not hold it.
    """
    if hook_name is None:
        return Place(block=block)
    if hook_name in ("hook_embed", "embedding"):
        return Place("resid_pre", 0, hook_name)
    for pattern, site in _NAMES:
        match = re.fullmatch(pattern, hook_name)
        if match:
            found = match.groupdict()
            return Place(site.format(**found), int(found["block"]), hook_name)
    if block is not None:
        return _place_in(hook_name, block)
    return Place(hook_name=hook_name)


def _place_in(hook_name: str, block: int) -> Place:
    """A name that holds the site alone, such as "resid_post"."""
    bare = hook_name.removeprefix("hook_")
    known = (*_SITES, *_OUTPUTS)
    return Place(bare if bare in known else None, block, hook_name)
