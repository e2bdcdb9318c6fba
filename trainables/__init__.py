"""What happens on a device: models, LoRA training, generation, metrics. Plain torch and diffusers.

Nothing in this package knows of Ray, Optuna, studies or trials."""
