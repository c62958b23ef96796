"""The whole model's time on a chip: decode steps, prompts, latency, throughput and score.

Everything here is modelled. `launches` asks the latency model for kernels at the shapes of
Qwen3-30B-A3B, `steps` puts them together as a graph launches them, with what stands around them,
`prompts` makes the challenge's figures of that, `baseline` models the padded experts of the stock
model, `timeline` and `roofline` have a layer's engines and every kernel's place under the roofs.
"""
