"""The options of transformers' `generate`, as keyword arguments.

Written by `python tools/options.py`. A checker holds calls against it; nothing reads it at run time.
"""

from __future__ import annotations

from typing import Any, TypedDict


class OnwardOptions(TypedDict, total=False):
    """The options of `generate`, but for the number of beams."""

    assistant_confidence_threshold: Any
    assistant_early_exit: Any
    assistant_ensemble_weight: Any
    assistant_lookbehind: Any
    bad_words_ids: Any
    begin_suppress_tokens: Any
    bos_token_id: Any
    cache_config: Any
    cache_implementation: Any
    compile_config: Any
    constraints: Any
    continuous_batching_config: Any
    decoder_start_token_id: Any
    disable_compile: Any
    diversity_penalty: Any
    do_sample: bool
    dola_layers: Any
    early_stopping: bool
    encoder_no_repeat_ngram_size: Any
    encoder_repetition_penalty: Any
    eos_token_id: Any
    epsilon_cutoff: Any
    eta_cutoff: Any
    exponential_decay_length_penalty: Any
    force_words_ids: Any
    forced_bos_token_id: Any
    forced_eos_token_id: Any
    guidance_scale: Any
    is_assistant: Any
    length_penalty: float
    low_memory: Any
    max_cache_len: Any
    max_length: int
    max_matching_ngram_size: Any
    max_new_tokens: int
    max_time: float
    min_length: int
    min_new_tokens: int
    min_p: float
    no_repeat_ngram_size: int
    num_assistant_tokens: Any
    num_assistant_tokens_schedule: Any
    num_beam_groups: Any
    num_return_sequences: int
    output_attentions: bool
    output_hidden_states: bool
    output_logits: bool
    output_scores: bool
    pad_token_id: Any
    penalty_alpha: Any
    prefill_chunk_size: Any
    prompt_lookup_num_tokens: Any
    remove_invalid_values: Any
    renormalize_logits: Any
    repetition_penalty: float
    return_dict_in_generate: bool
    sequence_bias: Any
    speculation_type: Any
    stop_strings: str | list[str]
    suppress_tokens: Any
    target_lookbehind: Any
    temperature: float
    token_healing: Any
    top_h: Any
    top_k: int
    top_p: float
    typical_p: float
    use_cache: bool
    use_mtp: Any
    watermarking_config: Any
    logits_processor: Any
    stopping_criteria: Any
    streamer: Any


class GenerateOptions(OnwardOptions, total=False):
    """The options of `generate`."""

    num_beams: int
