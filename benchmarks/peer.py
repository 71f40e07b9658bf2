"""The plain peer: the transfer-learning script that everyone writes, with none of our code.

PIL images, one after the other, through torchvision's transforms in a DataLoader with two workers; the whole
model forward in every epoch, in fp32 and NCHW; `.item()` in every step. It freezes well: what is not trained has
no gradient and keeps its BatchNorm statistics. `tuned=True` adds what a guide to faster PyTorch would add first,
autocast (where the hardware has half precision) and channels_last; what remains between it and ours is design.
"""

import contextlib

import torch
import torchvision
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Photos(Dataset):
    """PIL images and their labels; every access transforms one image anew."""

    def __init__(self, images, labels, transform):
        self.images, self.labels, self.transform = images, labels, transform

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        return self.transform(self.images[i]), self.labels[i]


def loader(images, labels, *, size, augment=False, shuffle=False, batch_size=64):
    """A DataLoader over PIL images; `size` is what the model sees."""
    steps = [transforms.Resize((size, size)), transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
    if augment:
        steps = [
            transforms.RandomCrop(images[0].size, padding=4),
            transforms.RandomHorizontalFlip(),
            transforms.ColorJitter(0.2, 0.2, 0.2, 0.1),
            *steps,
        ]
    photos = Photos(images, labels, transforms.Compose(steps))
    pinned = torch.cuda.is_available()
    return DataLoader(photos, batch_size, shuffle=shuffle, num_workers=2, pin_memory=pinned)


class Gate(nn.Module):
    """Squeeze-excite whose gates start at 1: twice a sigmoid of 0."""

    def __init__(self, channels, ratio=16):
        super().__init__()
        self.squeeze = nn.Linear(channels, channels // ratio, bias=False)
        self.excite = nn.Linear(channels // ratio, channels, bias=False)
        nn.init.zeros_(self.excite.weight)

    def forward(self, x):
        hidden = torch.relu(self.squeeze(x.mean((2, 3))))
        return x * (2 * torch.sigmoid(self.excite(hidden)))[:, :, None, None]


class Peer:
    """A pretrained network with a new classifier, of which `trainable` is trained: head, layer4 or all.

    `arch` is torchvision's name, or se_resnet50: a ResNet-50 with squeeze-excite before its pooling.
    """

    def __init__(self, arch, classes, *, trainable, rate, decay=None, weights=None, device="cpu", tuned=False):
        net = getattr(torchvision.models, arch.removeprefix("se_"))()
        if weights is not None:
            kept = {k: v for k, v in weights.items() if not k.startswith(("fc.", "classifier."))}
            net.load_state_dict(kept, strict=False)
        if arch.endswith("resnet50"):
            if arch == "se_resnet50":
                net.avgpool = nn.Sequential(Gate(net.fc.in_features), net.avgpool)
            net.fc = nn.Linear(net.fc.in_features, classes)
            self.trained = {"head": [net.fc], "layer4": [net.layer4, net.avgpool, net.fc], "all": [net]}[trainable]
        else:
            net.classifier[1] = nn.Linear(net.classifier[1].in_features, classes)
            self.trained = {"head": [net.classifier], "all": [net]}[trainable]
        net.requires_grad_(False)
        for part in self.trained:
            part.requires_grad_(True)
        self.device, self.tuned, self.half = torch.device(device), tuned, contextlib.nullcontext
        self.net = net.to(self.device)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=False)
        if tuned:
            self.net = net.to(memory_format=torch.channels_last)
            if self.device.type == "cpu":  # without units for it, bf16 is emulated and several times slower
                bf16 = half = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
            else:
                bf16, half = torch.cuda.is_bf16_supported(including_emulation=False), True
            dtype = torch.float16 if half and not bf16 else torch.bfloat16
            self.half = lambda: torch.autocast(self.device.type, dtype, enabled=half)
            self.scaler = torch.amp.GradScaler(self.device.type, enabled=dtype == torch.float16)
        parameters = [p for p in net.parameters() if p.requires_grad]
        adam = torch.optim.Adam if decay is None else torch.optim.AdamW
        self.optimizer = adam(parameters, lr=rate, weight_decay=decay or 0)
        self.loss = nn.CrossEntropyLoss()

    def _put(self, x, y):
        x, y = x.to(self.device), y.to(self.device)
        return (x.to(memory_format=torch.channels_last) if self.tuned else x), y

    def train_epoch(self, batches):
        """Train on every batch once; return mean loss and accuracy."""
        self.net.eval()
        for part in self.trained:
            part.train()
        loss_sum = correct = seen = 0
        for x, y in batches:
            x, y = self._put(x, y)
            self.optimizer.zero_grad()
            with self.half():
                logits = self.net(x)
                loss = self.loss(logits, y)
            self.scaler.scale(loss).backward()
            self.scaler.step(self.optimizer)
            self.scaler.update()
            loss_sum += loss.item() * len(y)
            correct += (logits.argmax(1) == y).sum().item()
            seen += len(y)
        return loss_sum / seen, correct / seen

    @torch.no_grad()
    def predict(self, batches):
        """Return logits [N, C] and labels [N], on the CPU."""
        self.net.eval()
        logits, labels = [], []
        for x, y in batches:
            x, _ = self._put(x, y)
            with self.half():
                logits.append(self.net(x).float().cpu())
            labels.append(y)
        return torch.cat(logits), torch.cat(labels)

    def accuracy(self, batches):
        """Return the share of images that are classified correctly."""
        logits, labels = self.predict(batches)
        return (logits.argmax(1) == labels).float().mean().item()
