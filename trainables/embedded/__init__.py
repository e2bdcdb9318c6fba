"""The family that ships: two tiny Stable Diffusion models, a subject, two feature networks, and the script that made them.

base/ and realistic/ are read by StableDiffusionPipeline.from_pretrained, subject/ has the format of users' subjects.
Nothing here is needed for models of your own."""
