"""Networks: shapes, parameter counts of the published ones, the places of dropout, batches of one, refusals."""

from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision import models

from raystudy.errors import InputError
from raystudy.learn.networks import NETWORKS, BatchNorm, PreActBlock, build, take_one

VECTORS = ["linear", "cosine", "mlp", "mlp:20x3"]
FITS = [
    ("mlp", 1, 8),
    ("mlp", 3, 32),
    ("convnet", 1, 8),
    ("convnet", 1, 28),
    ("convnet", 3, 32),
    ("convnet_small", 1, 8),
    ("convnet_small", 3, 32),
    ("cnn9", 1, 28),
    ("cnn9", 3, 32),
    ("preact_resnet18", 1, 8),
    ("preact_resnet18", 3, 32),
    ("resnet18", 1, 8),
    ("resnet18", 3, 32),
    ("squeezenet1_1", 1, 32),
]


def count(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize(("name", "channels", "size"), FITS)
def test_images_become_logits_and_gradients_reach_every_parameter(name, channels, size):
    torch.manual_seed(0)
    net = build(name, (channels, size, size), 7)
    assert net.training
    z = net(torch.randn(3, channels, size, size))
    assert z.shape == (3, 7)
    F.cross_entropy(z, torch.tensor([0, 3, 6])).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("name", VECTORS)
def test_vectors_become_logits_and_gradients_reach_every_parameter(name, dropout):
    torch.manual_seed(0)
    net, x = build(name, (12,), 7, dropout), torch.randn(5, 12)
    assert net.training
    F.cross_entropy(net(x), torch.tensor([0, 3, 6, 1, 1])).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
    assert (net(x).allclose(net(x))) == (dropout == 0)
    assert net.eval()(x[:1]).allclose(net(x)[:1], atol=1e-6)
    assert build(name, (12,), 7).train()(x[:1]).isfinite().all()  # a batch of one


def test_heads_by_hand():
    assert count(build("linear", (12,), 7)) == 12 * 7 + 7
    assert (
        count(build("mlp", (12,), 7)) == count(build("mlp", (3, 2, 2), 7)) == 256 * (12 + 256) + 4 * 256 + 256 * 7 + 7
    )
    assert count(build("mlp:20x3", (12,), 7)) == 20 * (12 + 20 + 20) + 6 * 20 + 20 * 7 + 7
    net = build("cosine", (2,), 2)
    cosine = net[-1]
    with torch.no_grad():
        cosine.weight.copy_(torch.tensor([[5.0, 0.0], [0.0, 0.1]]))
    assert net(torch.tensor([[3.0, 4.0]])).allclose(torch.tensor([[6.0, 8.0]]))


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_a_batch_of_one_trains(name):
    size = 28 if name == "cnn9" else 4
    net = build(name, (1, size, size), 5)
    for _ in range(2):
        assert net(torch.randn(1, 1, size, size)).isfinite().all()


@pytest.mark.parametrize("name", ["resnet18", "googlenet", "densenet121", "mobilenet_v3_small", "shufflenet_v2_x0_5"])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_batch_of_one_trains_a_network_of_torchvisions(name, channels):
    """At 32x32 pixels, as at 8x8, their last layers have one value per channel and image."""
    net = build(name, (channels, 32, 32), 5)
    logits = net(torch.randn(1, channels, 32, 32))
    logits.sum().backward()
    assert logits.isfinite().all()
    assert all(module.training for module in net.modules())
    assert all(buffer.isfinite().all() for buffer in net.buffers())


def test_a_network_of_torchvisions_is_what_it_was_for_larger_batches():
    torch.manual_seed(0)
    ours = build("resnet18", (3, 32, 32), 5)
    torch.manual_seed(0)
    theirs = models.resnet18(num_classes=5)
    assert repr(ours) == repr(theirs)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for n in (2, 3, 1):  # of one image as well, where it leaves several values to average over
        size = 32 if n > 1 else 64
        x = torch.randn(n, 3, size, size)
        torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=0)
    assert all(torch.equal(a, b) for a, b in zip(ours.buffers(), theirs.buffers(), strict=True))
    ours.eval(), theirs.eval()
    torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=0)
    copied = deepcopy(ours.train())  # as methods do with averaged networks
    assert copied(torch.randn(1, 3, 32, 32)).isfinite().all()


def test_a_library_may_have_batch_norms_of_its_own():
    """As timm has, with layers of their own in them that stay in training."""

    class Own(nn.BatchNorm2d):
        def __init__(self, width: int) -> None:
            super().__init__(width)
            self.drop = nn.Dropout(0.0)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            assert self.drop.training
            return self.drop(super().forward(x)).relu()

    layer = Own(3)
    nn.init.normal_(layer.bias)
    layer(torch.randn(4, 3, 1, 1))
    before = [buffer.clone() for buffer in layer.buffers()]
    assert take_one(layer) is layer
    assert isinstance(layer, Own)
    one = torch.randn(1, 3, 1, 1, requires_grad=True)
    out = layer(one)
    torch.testing.assert_close(out, layer.bias.view(1, 3, 1, 1).relu())
    (gradient,) = torch.autograd.grad(out.sum(), one)
    assert not gradient.any()
    assert layer(one[:0]).shape == (0, 3, 1, 1)
    assert layer.training
    assert all(torch.equal(a, b) for a, b in zip(before, layer.buffers(), strict=True))


@pytest.mark.slow
def test_a_last_batch_of_one_does_not_undo_an_epoch():
    """With running statistics in its place, losses here rise to 75."""
    torch.manual_seed(0)
    net, x, y = build("resnet18", (1, 8, 8), 10), torch.randn(321, 1, 8, 8), torch.arange(321) % 10
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    losses = []
    for _ in range(3):
        for xs, ys in zip(x.split(64), y.split(64), strict=True):
            loss = F.cross_entropy(net(xs), ys)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert len(xs) == 1
    assert max(losses) < 10


@pytest.mark.parametrize("name", sorted(NETWORKS))
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_evaluation_is_deterministic_and_dropout_acts_in_training_only(name, dropout):
    torch.manual_seed(0)
    size = 28 if name == "cnn9" else 8
    net, x = build(name, (1, size, size), 5, dropout=dropout), torch.randn(4, 1, size, size)
    assert torch.equal(net(x), net(x)) == (dropout == 0)
    net.eval()
    assert torch.equal(net(x), net(x))


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_dropout_changes_neither_parameters_nor_their_start(name):
    size = 28 if name == "cnn9" else 8
    torch.manual_seed(1)
    plain = build(name, (1, size, size), 5)
    torch.manual_seed(1)
    dropped = build(name, (1, size, size), 5, dropout=0.3)
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), dropped.parameters(), strict=True))
    torch.manual_seed(2)
    other = build(name, (1, size, size), 5)
    assert any(not torch.equal(a, b) for a, b in zip(plain.parameters(), other.parameters(), strict=True))


def test_parameter_counts():
    # mixup's PreAct ResNet-18: 11,171,146 of the common version plus 128 of the batch norm in its stem.
    assert count(build("preact_resnet18", (3, 32, 32), 10)) == 11_171_274
    assert count(build("preact_resnet18", (3, 32, 32), 100)) == 11_171_274 + 90 * 513
    assert count(build("preact_resnet18", (3, 32, 32), 10, dropout=0.5)) == 11_171_274
    assert count(build("cnn9", (3, 32, 32), 10)) == 4_434_570
    assert count(build("cnn9", (1, 28, 28), 10)) == 4_434_570 - 2 * 9 * 128
    assert count(build("mlp", (1, 8, 8), 10)) == 64 * 256 + 256 * 256 + 2 * 512 + 2570
    assert count(build("resnet18", (3, 32, 32), 1000)) == 11_689_512  # torchvision's documented count


def test_preact_resnet18_is_built_as_published():
    net = build("preact_resnet18", (3, 32, 32), 10)
    kinds = [type(m) for m in net]
    assert kinds[:3] == [nn.Conv2d, BatchNorm, nn.ReLU]  # the stem has batch norm
    assert kinds[3:11] == [PreActBlock] * 8
    assert kinds[11:] == [nn.AdaptiveAvgPool2d, nn.Flatten, nn.Linear]  # and there is none before the pool
    shortcuts = [block.shortcut for block in net if isinstance(block, PreActBlock)]
    assert [isinstance(s, nn.Conv2d) for s in shortcuts] == [False, False, True, False, True, False, True, False]
    assert all(s.kernel_size == (1, 1) and s.bias is None for s in shortcuts if isinstance(s, nn.Conv2d))


def test_preact_shortcut_starts_behind_the_first_activation():
    block = PreActBlock(2, 2, stride=1, dropout=0.0).eval()
    nn.init.zeros_(block.conv2.weight)  # what is left is the shortcut
    x = torch.tensor([-1.0, 2.0]).view(1, 2, 1, 1)
    torch.testing.assert_close(block(x), x.relu() / (1 + block.bn1.eps) ** 0.5)


def test_preact_dropout_sits_between_the_convolutions():
    torch.manual_seed(0)
    block = PreActBlock(2, 2, stride=1, dropout=0.999).train()
    x = torch.randn(4, 2, 3, 3)
    torch.testing.assert_close(block(x), F.relu(block.bn1(x)))  # all of the branch dropped, the shortcut untouched


def test_cnn9_drops_whole_channels_after_each_pooling():
    net = build("cnn9", (3, 32, 32), 10, dropout=0.25)
    kinds = [type(m) for m in net]
    pools = [i for i, kind in enumerate(kinds) if kind is nn.MaxPool2d]
    assert len(pools) == 2
    assert all(kinds[i + 1] is nn.Dropout2d for i in pools)
    assert [m.negative_slope for m in net if isinstance(m, nn.LeakyReLU)] == [0.01] * 9
    convolutions = [m for m in net if isinstance(m, nn.Conv2d)]
    assert [m.out_channels for m in convolutions] == [128, 128, 128, 256, 256, 256, 512, 256, 128]
    assert [m.padding for m in convolutions] == [(1, 1)] * 6 + [(0, 0)] * 3


def test_batch_norm_is_torchs():
    torch.manual_seed(0)
    ours, theirs = BatchNorm(3), nn.BatchNorm2d(3)
    for x in (torch.randn(5, 3, 4, 4), torch.randn(2, 3, 1, 1) * 3 + 1):
        torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=0)
    ours.eval(), theirs.eval()
    torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=0)
    before = ours.running_mean.clone()
    ours.train()
    torch.testing.assert_close(ours(x[:1]), theirs(x[:1]), rtol=0, atol=0)  # one value a channel: running statistics
    assert torch.equal(ours.running_mean, before)


def test_one_channel_is_shown_to_torchvision_three_times():
    net = build("resnet18", (1, 16, 16), 4).eval()
    x = torch.randn(2, 1, 16, 16)
    torch.testing.assert_close(net(x), net.net(x.repeat(1, 3, 1, 1)))


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (
            ("preact_resnet", (3, 32, 32), 10),
            "did you mean 'preact_resnet18'? choose from: cnn9, convnet, convnet_small, mlp",
        ),
        (("resnet81", (3, 32, 32), 10), "did you mean 'resnet18'"),
        (("zzz", (3, 32, 32), 10), "a torchvision classifier such as resnet18, or timm:NAME"),
        (("fcn_resnet50", (3, 32, 32), 10), "unknown network"),  # segmentation
        (("linear", (1, 8, 8), 10), "network 'linear' takes vectors, these are images; choose from: cnn9, convnet"),
        (
            ("convnet", (12,), 10),
            "network 'convnet' takes images, these are vectors of 12; choose from: cosine, linear, mlp",
        ),
        (("resnet18:pretrained", (12,), 10), "takes images, these are vectors of 12"),
        (("timm:resnet10t", (12,), 10), "takes images, these are vectors of 12"),
        (("liner", (12,), 10), "did you mean 'linear'"),
        (("mlp:big", (12,), 10), "write mlp:WIDTHxDEPTH, such as mlp:512x3"),
        (("mlp:0x3", (1, 8, 8), 10), "write mlp:WIDTHxDEPTH"),
        (("cnn9", (1, 8, 8), 10), "at least 28x28 pixels, these are 8x8"),
        (("cnn9", (1, 27, 27), 10), "would leave nothing"),
        (("convnet", (1, 3, 3), 10), "at least 4x4"),
        (("squeezenet1_1", (3, 8, 8), 10), "does not take images of 8x8 pixels"),
        (("vit_b_16", (3, 32, 32), 10), "does not take images of 32x32"),
        (("mlp", (1, 8, 8), 10, 1.0), "outside [0, 1)"),
        (("squeezenet1_1", (3, 32, 32), 10, 0.5), "no place for dropout"),
        (
            ("cnn9:pretrained", (3, 32, 32), 10),
            "no pretrained weights; torchvision's have, such as resnet18:pretrained",
        ),
        (("resnet81:pretrained", (3, 32, 32), 10), "did you mean 'resnet18'?"),
    ],
)
def test_refusals_are_one_clear_line(args, told):
    with pytest.raises(InputError) as caught:
        build(*args)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_dropout_in_a_network_of_torchvisions_acts_in_front_of_its_last_layer():
    net = build("resnet18", (3, 32, 32), 7, 0.5)
    dropout, linear = net.fc
    assert (dropout.p, linear.out_features) == (0.5, 7)


def test_pretrained_weights_are_used_but_for_the_last_layer(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    for proxy in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(proxy, "http://127.0.0.1:9")  # so that nothing is downloaded where there is a network
    with pytest.raises(
        InputError, match=r"resnet18:pretrained are not here and cannot be downloaded .*put https://.*\.pth at [^\n]*$"
    ):
        build("resnet18:pretrained", (3, 32, 32), 7)
    torch.manual_seed(1)
    told = models.resnet18().state_dict()
    url = models.ResNet18_Weights.DEFAULT.url
    (tmp_path / "checkpoints").mkdir(exist_ok=True)
    torch.save(told, tmp_path / "checkpoints" / url.rpartition("/")[2])
    net = build("resnet18:pretrained", (3, 32, 32), 7)
    assert torch.equal(net.conv1.weight, told["conv1.weight"])
    assert net.fc.weight.shape == (7, 512)


@pytest.mark.parametrize("name", ["smoke:resnet50:pretrained", "smoke:timm:x", "smoke:cnn9"])
def test_stand_ins(name):
    assert count(build(name, (1, 8, 8), 10, dropout=0.5)) == count(build("mlp", (1, 8, 8), 10))
