"""vLLM's part of `bench.sample`, which starts it with the Python that vLLM is installed in.

Reads a job from standard input; its last line is the rounds' answers and tokens a second.
"""

import json
import sys
import time

from vllm import LLM, SamplingParams, TokensPrompt


def main(job: dict) -> list[tuple[float, float]]:
    prompts = [TokensPrompt(prompt_token_ids=ids) for ids in job["prompts"]]
    longest = max(map(len, job["prompts"])) + job["new_tokens"]
    llm = LLM(
        job["model"],
        dtype=job["dtype"],
        max_model_len=longest,
        max_num_seqs=job["batch"],
        generation_config="vllm",
        skip_tokenizer_init=True,
    )
    settings = SamplingParams(
        temperature=job["temperature"],
        max_tokens=job["new_tokens"],
        stop_token_ids=job["end"],
        ignore_eos=not job["end"],
        detokenize=False,
    )
    rates = []
    for i in range(job["rounds"] + 1):  # after one unmeasured
        start = time.perf_counter()
        outputs = llm.generate(prompts, settings, use_tqdm=False)
        seconds = time.perf_counter() - start
        tokens = sum(len(output.outputs[0].token_ids) for output in outputs)
        if i:
            rates.append((len(outputs) / seconds, tokens / seconds))
    return rates


if __name__ == "__main__":  # vLLM starts processes that import this file
    print("\n" + json.dumps(main(json.load(sys.stdin))))
