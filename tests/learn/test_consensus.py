"""The noise of HOC and the ranking of SimiFeat-R: parity with the published code, hand-computed values, limits."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from raystudy.learn import ops
from raystudy.learn.consensus import (
    SCORES,
    Consensus,
    clean_given_noisy,
    consensus,
    count,
    fit,
    implied,
    misfit,
    ranked_wrong,
    scores,
    simifeat_r,
    start,
    subsets,
    verdict,
    wrong_shares,
)
from raystudy.learn.losses import forward_correction
from raystudy.learn.neighbours import nearest, similarity_votes

Vectors = dict[str, Tensor]
ADAM = 1e-8  # Adam on a non-smooth objective: tests/parity/README.md


def close(ours: Tensor, theirs: Tensor, tolerance: float = 1e-9) -> None:
    atol = tolerance * float(theirs.abs().max())
    torch.testing.assert_close(ours.to(theirs).view_as(theirs), theirs, rtol=0, atol=atol)


@pytest.fixture(scope="module")
def z(parity) -> Vectors:
    return {key: torch.from_numpy(value) for key, value in parity("simifeat").items()}


def seen(z: Vectors) -> Consensus:
    return Consensus(z["hoc_p1"], z["hoc_p2"], z["hoc_p3"])


# --- parity -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_consensus_parity(z: Vectors, dtype: torch.dtype) -> None:
    x, y, rounds, n_classes = z["hoc_features"].to(dtype), z["hoc_labels"], z["hoc_rounds"], int(z["num_classes"])
    near = nearest(x[rounds[0]], 2, "cosine", itself=False).position
    assert torch.equal(count(y[rounds[0]], near, n_classes).double(), z["hoc_count3_round0"])
    for ours, theirs in zip(consensus(x, y, n_classes, rounds), seen(z), strict=True):
        close(ours, theirs)


def test_model_and_objective_parity(z: Vectors) -> None:
    for ours, key in zip(implied(z["model_T"], z["model_P"]), ("model_p1", "model_p2", "model_p3"), strict=True):
        close(ours, z[key])
    t, p = z["obj_T_logits"].clone().requires_grad_(), z["obj_P_logits"].flatten().requires_grad_()
    loss = misfit(seen(z), t, p)
    close(loss.detach(), z["obj_loss"])
    grad_t, grad_p = torch.autograd.grad(loss, [t, p])
    close(grad_t, z["obj_grad_T"])
    close(grad_p, z["obj_grad_P"])


def test_fit_parity(z: Vectors) -> None:
    """The published function returns its last iterate; the best one is what it means to return."""
    steps, lr = int(z["opt_steps"]), float(z["opt_lr"])
    logits = start(torch.zeros(int(z["num_classes"])))[0], z["opt_p0"].flatten()
    last, best = (fit(seen(z), logits, steps, lr, keep) for keep in ("last", "best"))  # type: ignore[arg-type]
    for found in (last, best):
        close(found.losses, z["opt_losses"], ADAM)
    close(last.transition, z["opt_T"], ADAM)
    close(last.prior, z["opt_P"], ADAM)
    close(last.t_logits, z["opt_T_logits"], ADAM)
    close(last.p_logits, z["opt_P_logits"], ADAM)
    close(best.transition, z["opt_best_T"], ADAM)
    close(best.prior, z["opt_best_P"], ADAM)
    assert int(best.losses.argmin()) == int(z["opt_best_step"])
    close(best.losses.min(), z["opt_loss_min"], ADAM)

    warm = fit(seen(z), (last.t_logits, last.p_logits), int(z["warm_steps"]), float(z["warm_lr"]), "last")
    close(warm.transition, z["warm_T"], ADAM)
    close(warm.prior, z["warm_P"], ADAM)
    close(warm.losses[6:].min(), z["warm_loss_min"], ADAM)


def test_scores_and_ranking_parity(z: Vectors) -> None:
    y, n_classes = z["labels"], int(z["num_classes"])
    near = nearest(z["features"], int(z["k"]), "cosine")
    votes = similarity_votes(near, y, n_classes, float(z["min_similarity"]))
    close(torch.bincount(y, minlength=n_classes).double() / len(y), z["noisy_prior"])
    for kind in SCORES:
        close(scores(votes, y, kind), z[f"score_{kind}"])
        close(scores(votes.float(), y, kind), z[f"score_{kind}"], 1e-5)
    shares = wrong_shares(z["T_given_noisy"].diagonal(), float(z["Tii_offset"]))
    assert (shares[1], shares[2]) == (0.05, 0.95)  # beyond 1 and below 0 in the file
    for each in (votes, votes.float()):
        wrong = ranked_wrong(scores(each, y), y, shares)
        assert set(z["index"][wrong].tolist()) == set(z["noisy_index_rank1"].tolist())


def test_a_whole_round_parity(z: Vectors) -> None:
    x, y, n_classes = z["pipe_features"], z["pipe_labels"], int(z["num_classes"])
    order = z["pipe_order"]
    grouped = torch.cat([order[y[order] == c] for c in range(n_classes)])  # the published code sorts samples by label
    logits = start(z["pipe_p_rand"].flatten())
    agreed = consensus(x, y, n_classes, grouped[z["pipe_samples"]])
    found = fit(agreed, logits, int(z["pipe_max_iter"]), float(z["pipe_lr"]), "last")
    close(found.transition, z["pipe_T"], ADAM)
    close(found.prior, z["pipe_P"], ADAM)
    close(torch.bincount(y, minlength=n_classes).double() / len(y), z["pipe_prior"])
    posterior = clean_given_noisy(found.transition, found.prior, y)
    close(posterior, z["pipe_T_given_noisy"], ADAM)
    close(posterior + z["pipe_jitter"].diag(), z["pipe_T_given_noisy_jittered"], ADAM)
    wrong = simifeat_r(x, y, found, jitter=z["pipe_jitter"], offset=float(z["pipe_Tii_offset"]), k=int(z["k"]))
    assert set(wrong.nonzero().flatten().tolist()) == set(z["pipe_noisy"].tolist())
    assert set((~wrong).nonzero().flatten().tolist()) == set(z["pipe_clean"].tolist())


def test_verdict_parity(z: Vectors) -> None:
    clean, wrong = verdict(z["vote_clean"], z["vote_seen"])
    assert torch.equal(clean.long(), z["vote_clean_summary"])
    assert torch.equal(wrong.long(), z["vote_noisy_summary"])
    assert [clean[:2].tolist(), wrong[:2].tolist()] == [[False, False]] * 2  # never seen, and a tie


def test_forward_loss_parity(z: Vectors) -> None:
    """HOC's training is our forward correction. The text of its last commit has lost a logarithm; that one we have not."""
    logits = z["fw_logits"].clone().requires_grad_()
    loss = forward_correction(logits, z["fw_labels"], z["model_T"].log()).mean()
    close(loss.detach(), z["fw_loss_log"])
    close(torch.autograd.grad(loss, logits)[0], z["fw_grad_log"])
    published = F.cross_entropy(logits.softmax(1) @ z["model_T"], z["fw_labels"])
    close(published.detach(), z["fw_loss_current"])
    close(torch.autograd.grad(published, logits)[0], z["fw_grad_current"])
    assert abs(float(z["fw_loss_current"] - z["fw_loss_log"])) > 0.1


# --- values by hand, limits ---------------------------------------------------------------------------------------


def random_model(n_classes: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    t = torch.rand(n_classes, n_classes, generator=g, dtype=torch.float64) + 3 * torch.eye(n_classes)
    p = 1 + torch.rand(n_classes, generator=g, dtype=torch.float64)
    return t / t.sum(1, keepdim=True), p / p.sum()


def test_shares_are_margins_of_each_other() -> None:
    t, p = random_model(5)
    model = implied(t, p)
    torch.testing.assert_close(model.three.sum(2), model.two)
    torch.testing.assert_close(model.two.sum(1), model.one)
    assert float(model.one.sum()) == pytest.approx(1)
    perfect = implied(torch.eye(5, dtype=torch.float64), p)
    assert torch.equal(perfect.two, p.diag())


def test_count_by_hand() -> None:
    y, near = torch.tensor([0, 1, 1]), torch.tensor([[1, 2], [2, 0], [0, 1]])
    expected = torch.zeros(2, 2, 2, dtype=torch.long)
    expected[0, 1, 1] = expected[1, 1, 0] = expected[1, 0, 1] = 1
    assert torch.equal(count(y, near, 2), expected)


def test_a_twin_is_a_neighbour_and_not_the_point_itself() -> None:
    x = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.1], [0.0, 1.0]])
    y = torch.tensor([0, 1, 2, 3])
    shares = consensus(x, y, 4, torch.arange(4)[None])
    assert shares.two[0].tolist() == [0, 0.25, 0, 0]
    assert shares.two[1].tolist() == [0.25, 0, 0, 0]
    assert shares.three[1, 0, 2] == 0.25
    with pytest.raises(ValueError, match="have 2"):
        consensus(x, y, 4, torch.arange(2)[None])


def test_the_true_model_fits_exactly_and_is_found() -> None:
    t, p = random_model(4)
    exact = implied(t, p)
    assert float(misfit(exact, t.log(), p.log())) == pytest.approx(0, abs=1e-12)
    found = fit(exact, start(torch.rand(4, generator=torch.Generator().manual_seed(3))))
    assert len(found.losses) == 400
    torch.testing.assert_close(found.transition, t, rtol=0, atol=0.03)
    torch.testing.assert_close(found.prior, p, rtol=0, atol=0.03)
    assert float(misfit(exact, found.t_logits, found.p_logits)) == float(found.losses.min())
    torch.testing.assert_close(found.transition.sum(1), torch.ones(4).double())


def test_no_step_is_the_start_and_gradients_need_not_be_on() -> None:
    t, p = random_model(3)
    logits = start(torch.tensor([0.0, 0.5, 1.0]))
    assert logits[0].tolist() == [[4, -1, -1], [-1, 4, -1], [-1, -1, 4]]
    assert logits[1].tolist() == pytest.approx([1 / 3, 1 / 3 + 0.05, 1 / 3 + 0.1])
    kept = [value.clone() for value in logits]
    found = fit(implied(t, p), logits, steps=1)
    assert torch.equal(found.t_logits, logits[0])
    with torch.no_grad():
        assert fit(implied(t, p), logits, steps=20).losses[-1] < found.losses[0]
    assert all(torch.equal(a, b) for a, b in zip(kept, logits, strict=True))
    assert not logits[0].requires_grad


def test_one_class_only() -> None:
    x, y = torch.randn(12, 3, generator=torch.Generator().manual_seed(0)), torch.zeros(12, dtype=torch.long)
    found = fit(consensus(x, y, 1, torch.arange(12)[None]), start(torch.rand(1)), steps=5)
    assert found.transition.tolist() == [[1.0]]
    assert found.prior.tolist() == [1.0]
    assert wrong_shares(clean_given_noisy(found.transition, found.prior, y).diagonal()).tolist() == [0.05]


def test_subsets_are_of_their_generator_alone() -> None:
    draws = [subsets(50, torch.Generator().manual_seed(4), size=20, rounds=3) for _ in range(2)]
    assert torch.equal(*draws)
    assert draws[0].shape == (3, 20)
    assert all(len(set(row.tolist())) == 20 for row in draws[0])
    assert sorted(subsets(5, torch.Generator(), rounds=1)[0].tolist()) == [0, 1, 2, 3, 4]


def test_posterior_by_hand() -> None:
    t = torch.tensor([[0.8, 0.2, 0.0], [0.4, 0.6, 0.0], [0.0, 0.0, 1.0]]).double()
    p = torch.tensor([0.5, 0.5, 0.0]).double()
    y = torch.tensor([0, 0, 0, 1, 1])  # shares 0.6 and 0.4, as T and p say
    posterior = clean_given_noisy(t, p, y)
    expected = torch.tensor([[0.4 / 0.6, 0.1 / 0.4, 0], [0.2 / 0.6, 0.3 / 0.4, 0], [0, 0, 1]]).double()
    torch.testing.assert_close(posterior, expected)
    assert posterior.sum(0).tolist() == pytest.approx([1, 1, 1])


def test_wrong_shares_by_hand() -> None:
    right = torch.tensor([1.2, 1.0, 0.99, 0.6, 0.0, -0.1]).double()
    assert wrong_shares(right).tolist() == pytest.approx([0.05, 0.05, 0.01, 0.4, 0.95, 0.95])
    assert wrong_shares(right, 0.5).tolist() == pytest.approx([0.4, 0.5, 0.505, 0.7, 0.95, 0.95])


def test_scores_by_hand_and_of_votes_below_zero() -> None:
    votes, y = torch.tensor([[0.5, 0.25], [-0.2, 1.0]]).double(), torch.tensor([1, 0])
    assert scores(votes, y)[0].item() == pytest.approx(math.log(4))
    assert scores(votes, y)[1].item() == pytest.approx(8 * math.log(10))
    assert scores(votes, y, "cores")[0].item() == pytest.approx(math.log(4) - math.log(8) / 2)


@pytest.mark.parametrize("share", [0.05, 0.1, 0.3, 0.5, 0.95])
def test_the_cut_is_numpys_percentile(share: float) -> None:
    g = torch.Generator().manual_seed(5)
    y = torch.arange(83) % 3
    score = torch.randn(83, generator=g, dtype=torch.float64)
    wrong = ranked_wrong(score, y, torch.tensor([share, 0.2, 0.05, 0.5]))  # class 3 has no members
    for c, part in enumerate((share, 0.2, 0.05)):
        mine = score[y == c].numpy()
        assert (wrong[y == c].numpy() == (mine >= np.percentile(mine, 100 * (1 - part)))).all()


def test_a_cut_at_a_member_takes_it_and_all_its_equals() -> None:
    y = torch.zeros(21, dtype=torch.long)
    ranks = torch.arange(21).double()
    for share in np.arange(1, 20) / 20:  # the cut is exactly at a member
        assert int(ranked_wrong(ranks, y, torch.tensor([share])).sum()) == round(20 * share) + 1
    assert ranked_wrong(torch.ones(21), y, torch.tensor([0.05])).all()
    assert ranked_wrong(torch.ones(1), y[:1], torch.tensor([0.05])).all()


def test_known_noise_of_clusters_is_estimated_and_found() -> None:
    """Three far apart clusters, symmetric noise of 30 % wrong labels."""
    g = torch.Generator().manual_seed(6)
    clean = torch.arange(3000) % 3
    x = 5 * torch.eye(3)[clean] + 0.3 * torch.randn(3000, 3, generator=g)
    other = (clean + 1 + (torch.rand(3000, generator=g) < 0.5)) % 3
    wrong = torch.rand(3000, generator=g) < 0.3
    y = torch.where(wrong, other, clean)
    agreed = consensus(x, y, 3, subsets(3000, g, size=1500, rounds=5))
    found = fit(agreed, start(torch.rand(3, generator=g)), lr=0.05)
    torch.testing.assert_close(found.transition, ops.known_transition("symmetric", 3, 0.3), rtol=0, atol=0.05)
    told = simifeat_r(x, y, found)
    assert (told == wrong).double().mean() > 0.95
