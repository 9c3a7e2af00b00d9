"""What vulture takes for dead and is not, with who uses it: read by `vulture`, never run."""
# ruff: noqa: B018, F821

# Python itself asks modules and classes for these, and argparse calls the last.
__getattr__, __dir__, __class__, create_module, exec_module, showwarning, _check_value

# The public API, and what documents name of it (tests/files/api.txt).
kv_bytes_saved, to_json, answer_file, application, VTokensSimple, amber, amber_words, halloc, mhalubench

# Strategies of 0.1 have these in place of `Needs`, until 0.3.
acts_before, attends_in, encodes_in, wants_branch

# Signals of the filter say it in their own class, where the registry looks.
by_token

# The spec of a composition has its fields in braces.
horizon

# transformers, torch, tokenizers, PyAV, matplotlib and rich read or call these.
(
    _attn_implementation_internal,
    is_sliding,
    normalizer,
    pre_tokenizer,
    thread_count,
    gop_size,
    pix_fmt,
    no_wrap,
    on_broken_pipe,
)

# lmms-eval finds these: the entry point of its models, what it asks of a model, and functions that its task files name.
manifests, loglikelihood, generate_until_multi_round, max_batch_size, lmms_eval, score_caption, score_exact, score_pope

# The templates of the report read these.
DARK, DARK_BACKGROUND, LIGHT_BACKGROUND, PHASES_DARK, leads, tip, x_ticks, y_ticks

# Fields of records that are written whole, to JSON or a table.
ap, chair_i, licence, object_recall, precision, scene2, stratified, unanswered

# The server of transformers, uvicorn, h11 and http.client call or read these; and requests and answers have the rest.
force_exit, handle_exit, health, list_models, load_model_and_processor, send_400_response, should_exit, sock
(
    finish_reason,
    function_call,
    image_url,
    include_obfuscation,
    owned_by,
    parallel_tool_calls,
    reasoning_content,
    response_format,
)
service_tier, strict, tool_call_id, tool_calls, top_k, total_tokens, video_url

# mkdocs, html.parser, http.server and nbclient call or read these.
connection_file, do_GET, edit_url, execution_count, handle_starttag, log_message
on_config, on_files, on_page_content, on_page_markdown, on_post_page, on_post_template
