# Interplay's training as far as it is public: both roles on PEARL, SFT, then DPO on judged pairs. For GPUs.
# Run as a whole here with a model of 135 million parameters (tests/training/test_recipe.py), not with a large one and not on PEARL itself.
# BASE: a chat model of Hugging Face, e.g. meta-llama/Llama-3.1-8B-Instruct or Qwen/Qwen3-8B; GGUF: the same for llama.cpp;
# JUDGE: a GGUF of a stronger model; PEARL: the file of LangAGI-Lab/pearl. Needs the extra `trl`.
set -eu
crs data import-dialogues "$PEARL" --as pearl --to corpora/pearl

for role in user recommender; do
  # one small GPU: add --four-bit. Eight GPUs: accelerate launch --num_processes 8 -m crslib train … instead of crs train …
  crs train $role --trainer trl --model "$BASE" --corpus corpora/pearl --epochs 3 --lr 1e-4 --to adapters/$role-sft
  # four continuations of each of 480 moments; rules and the judge say which are better
  crs prefer $role --told --model "$GGUF" --init adapters/$role-sft/$role.gguf --corpus corpora/pearl --judge "$JUDGE" --to adapters/$role-pairs
  crs train $role --trainer trl --model "$BASE" --init adapters/$role-sft/peft --corpus corpora/pearl --pairs adapters/$role-pairs \
    --epochs 1 --lr 5e-6 --to adapters/$role
done

crs run -p user_model="$GGUF" -p user_adapter=adapters/user/user.gguf -p user_prompt=data/prompts/trained.md \
  -p recommender_model="$GGUF" -p recommender_adapter=adapters/recommender/recommender.gguf -p recommender_prompt=data/prompts/trained.md
