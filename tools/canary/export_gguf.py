"""Writes the trained weights (an .npz of float arrays by GGUF tensor name) as a GGUF file.

    python3 export_gguf.py canary.npz ../../models/canary-f16.gguf

Matrices become F16 and norms F32. Query and key rows need no reordering: training rotates adjacent pairs, as
the llama architecture in GGUF does.
"""

import argparse

import gguf
import numpy as np

import vocab
from shape import Shape


def write(path, shape, tensors):
    out = gguf.GGUFWriter(path, "llama")
    out.add_name("Canary")
    out.add_description("A tiny llama with one right answer to each small task; see tools/canary")
    out.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    out.add_quantization_version(gguf.GGML_QUANT_VERSION)
    out.add_vocab_size(shape.vocab)
    out.add_context_length(shape.context)
    out.add_embedding_length(shape.d_model)
    out.add_block_count(shape.n_layers)
    out.add_feed_forward_length(shape.d_ff)
    out.add_head_count(shape.n_heads)
    out.add_head_count_kv(shape.n_kv_heads)
    out.add_layer_norm_rms_eps(shape.rms_eps)
    out.add_rope_dimension_count(shape.head_dim)
    out.add_rope_freq_base(shape.rope_theta)
    out.add_tokenizer_model("llama")
    out.add_tokenizer_pre("default")
    out.add_token_list(vocab.PIECES)
    out.add_token_scores(vocab.SCORES)
    out.add_token_types(vocab.TYPES)
    out.add_bos_token_id(vocab.BOS_ID)
    out.add_eos_token_id(vocab.EOS_ID)
    out.add_unk_token_id(vocab.UNK_ID)
    out.add_add_bos_token(True)
    out.add_add_eos_token(False)
    out.add_add_space_prefix(True)
    out.add_chat_template(vocab.CHAT_TEMPLATE)
    for name, rows, columns in shape.matrices():
        matrix = np.asarray(tensors[name])
        assert matrix.shape == (rows, columns), (name, matrix.shape)
        out.add_tensor(name, matrix.astype(np.float16))
    for name, length in shape.norms():
        vector = np.asarray(tensors[name])
        assert vector.shape == (length,), (name, vector.shape)
        out.add_tensor(name, vector.astype(np.float32))
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("npz", help="weights that train.py wrote")
    parser.add_argument("gguf", help="file to write")
    args = parser.parse_args()
    tensors = np.load(args.npz)
    shape = Shape(n_layers=sum(name.endswith(".attn_q.weight") for name in tensors.files))
    write(args.gguf, shape, tensors)
    print(f"wrote {args.gguf}: {len(shape.matrices())} matrices, {len(shape.norms())} norms")


if __name__ == "__main__":
    main()
