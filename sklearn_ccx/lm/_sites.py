"""Names of the places where activations are recorded."""

from collections.abc import Sequence

from transformers import PreTrainedModel

from .._engine._torch_state import with_torch_state
from .._validation import check_list, shown
from ._architectures import Block, check_model, transformer_blocks


@with_torch_state()
def site_names(model: PreTrainedModel) -> list[str]:
    """List the names of a model's sites, in order of computation.

    Each block has the sites

    - "resid_pre", the residual stream at its input;
    - "attn_in", what its attention reads: the normalised residual stream;
    - "resid_mid", the residual stream between attention and MLP. Blocks that run
      both side by side (Pythia, GPT-J, Phi, Cohere, most of Falcon) have none;
    - "mlp_in", what its MLP reads: the normalised residual stream;
    - "resid_post", the residual stream at its output, which is "resid_pre" of the
      next block.

    In BERT and its kin, and in OLMo 2 and 3, normalisation comes after attention and
    MLP: there "attn_in" equals "resid_pre" and "mlp_in" equals "resid_mid".

    The families known, by ``config.model_type``, are bert, cohere, cohere2, distilbert,
    electra, falcon, gemma, gemma2, gemma3_text, glm, glm4, gpt2, gpt_bigcode, gpt_neo,
    gpt_neox, gpt_oss, gptj, llama, llama4_text, mistral, mixtral, modernbert, mpnet,
    olmo, olmo2, olmo3, opt, phi, phi3, qwen2, qwen2_moe, qwen3, qwen3_moe, roberta,
    stablelm, starcoder2 and xlm-roberta. Of a model that sees images as well, the
    language model is read.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        A model of a known family.

    Returns
    -------
    names : list of str
        Such as "blocks.0.mlp_in".

    Raises
    ------
    ValueError
        If the architecture is not known.
    TypeError
        If `model` is not a transformers model.

    Examples
    --------
    >>> from transformers import GPT2Config, GPT2LMHeadModel
    >>> from sklearn_ccx.lm import site_names
    >>> config = GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=16)
    >>> site_names(GPT2LMHeadModel(config))
    ['blocks.0.resid_pre', 'blocks.0.attn_in', 'blocks.0.resid_mid', \
'blocks.0.mlp_in', 'blocks.0.resid_post']
    """
    return _all_names(transformer_blocks(check_model(model)))


def _all_names(blocks: list[Block]) -> list[str]:
    return [
        f"blocks.{index}.{site}"
        for index, block in enumerate(blocks)
        for site in block.sites
    ]


def resolve_sites(sites: str | Sequence[str], blocks: list[Block]) -> tuple[str, ...]:
    """Find the full names of the sites asked for, in order of computation, each once.

    Parameters
    ----------
    sites : str or sequence of str
        Names with or without their block.

    blocks : list of Block
        The blocks of the model.

    Returns
    -------
    names : tuple of str
        Such as "blocks.0.mlp_in".

    Raises
    ------
    ValueError
        If a site is unknown or none is given.
    TypeError
        If it is no list of names.
    """
    patterns = [sites] if isinstance(sites, str) else check_list(sites, "sites")
    if not patterns:
        raise ValueError('sites is empty; name a site, such as "mlp_in".')
    names = _all_names(blocks)
    chosen: set[str] = set()
    for pattern in patterns:
        if not isinstance(pattern, str):
            raise TypeError(f"sites must be names of sites; got {shown(pattern)}.")
        matches = {name for name in names if pattern in (name, name.rsplit(".", 1)[1])}
        if not matches:
            raise ValueError(
                f"sites: the model has no site {pattern!r}; use one of "
                f"{list(blocks[0].sites)} for all blocks, or a single one such as "
                f"{names[-1]!r}."
            )
        chosen |= matches
    return tuple(name for name in names if name in chosen)


def split_name(name: str) -> tuple[int, str]:
    """Take a full name apart.

    Parameters
    ----------
    name : str
        Such as "blocks.0.mlp_in".

    Returns
    -------
    block : int
        Index of the block.

    site : str
        Name of the site in the block.
    """
    _, block, site = name.split(".")
    return int(block), site
