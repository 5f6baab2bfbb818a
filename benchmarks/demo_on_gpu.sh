#!/usr/bin/env bash
# The demo's data and warm-started model on one GPU, by verl's own defaults for GPUs (FSDP, vLLM that sleeps while the
# policy is trained): bash benchmarks/demo_on_gpu.sh [OVERRIDES...]
# `make demo` leaves both in HOME_DIR (default: runs/demo); the run goes to RUN_DIR. Needs no flash-attn.
set -euo pipefail
home=$(cd "${HOME_DIR:-runs/demo}" && pwd)
actor_rollout=actor_rollout_ref
exec "${PYTHON:-python3}" -m verl.trainer.main_ppo --config-name divek_trainer \
    "data.train_files=$home/data/train.parquet" \
    "data.val_files=[$home/data/val_base.parquet,$home/data/val_new.parquet]" \
    data.train_batch_size=16 data.max_prompt_length=256 data.max_response_length=16 data.dataloader_num_workers=2 \
    divek.num_samples=12 divek.repetition_penalty=1.0 \
    algorithm.norm_adv_by_std_in_grpo=true \
    "$actor_rollout.model.path=$home/model" "$actor_rollout.model.use_remove_padding=false" \
    "+$actor_rollout.model.override_config.attn_implementation=sdpa" \
    "$actor_rollout.actor.ppo_mini_batch_size=16" "$actor_rollout.actor.ppo_micro_batch_size_per_gpu=128" \
    "$actor_rollout.actor.use_kl_loss=false" "$actor_rollout.actor.optim.lr=1e-4" \
    "$actor_rollout.ref.log_prob_micro_batch_size_per_gpu=128" \
    "$actor_rollout.rollout.n=8" "$actor_rollout.rollout.log_prob_micro_batch_size_per_gpu=128" \
    "$actor_rollout.rollout.load_format=auto" "$actor_rollout.rollout.gpu_memory_utilization=0.4" \
    "$actor_rollout.rollout.max_model_len=512" "$actor_rollout.rollout.agent.num_workers=2" reward.num_workers=1 \
    trainer.n_gpus_per_node=1 'trainer.logger=[console]' trainer.project_name=divek trainer.experiment_name=demo_on_gpu \
    trainer.total_epochs=1000 trainer.total_training_steps=40 trainer.test_freq=40 trainer.save_freq=20 \
    "trainer.default_local_dir=${RUN_DIR:-runs/demo_on_gpu}" ray_kwargs.ray_init.num_cpus=64 "$@"
