"""A LightningModule around a network with EMAM, inserted in __init__, before Lightning creates the optimiser.

python examples/insertion/into_lightning.py
"""

import timm
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from panet_layers import EMAM, insert_attention
from panet_layers.extras import needs

with needs("clients"):
    import lightning


class Classifier(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.model = timm.create_model("test_resnet", num_classes=2)
        insert_attention(self.model, "stages", EMAM)

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        images, labels = batch
        return nn.functional.cross_entropy(self.model(images), labels)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


def main() -> None:
    data = TensorDataset(torch.randn(4, 3, 64, 64), torch.tensor([0, 1, 0, 1]))
    trainer = lightning.Trainer(
        max_steps=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False
    )
    trainer.fit(Classifier(), DataLoader(data, batch_size=4))
    print(f"Lightning trained a network with EMAM for {trainer.global_step} step")


if __name__ == "__main__":
    main()
