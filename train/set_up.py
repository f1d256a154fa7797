"""A run, made once from its config."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from accelerate.utils import set_seed

from memsieve.filtering.audit.looked_up import LookedUpReference
from memsieve.filtering.data.loader import WindowLoader
from memsieve.filtering.data.loader_sieve import Sieve, SieveFile
from memsieve.filtering.data.pool import Ranks
from memsieve.filtering.data.rows import Row
from memsieve.filtering.data.small import TrainingPairs, training_pairs
from memsieve.filtering.denoisers.fingerprint import model_hashes, total_hash
from memsieve.filtering.exchange import Exchange
from memsieve.filtering.filter import MemorizationFilter
from memsieve.filtering.rules import RecallRule, Rule
from memsieve.filtering.settings import SettingsError
from memsieve.train.agreement import check_ranks_agree
from memsieve.train.cache import cached
from memsieve.train.checkpoint import latest_checkpoint, load_extra
from memsieve.train.config import RunConfig
from memsieve.train.copies import CopyProbe
from memsieve.train.engine import Engine, make_accelerator
from memsieve.train.family import open_family
from memsieve.train.held_out import HeldOutTurns, enough_held_out, held_out_squares
from memsieve.train.measure import Scorer
from memsieve.train.network import prepare_model
from memsieve.train.prior import check_prior, open_prior
from memsieve.train.recall import RecallProbe, asked_pairs
from memsieve.train.records import Records
from memsieve.train.resume import keep_config, restore
from memsieve.train.session import Session
from memsieve.train.sieve import open_sieve
from memsieve.train.step import WindowTrainer
from memsieve.train.tracking import Tracker
from memsieve.train.watchdog import Watch

__all__ = ["set_up"]


def set_up(config: RunConfig, rule: Rule | None = None) -> Session:
    """Build a session, and restore the newest checkpoint of the run folder where there is one.

    Args:
        config: the run's.
        rule: tests visits and condemns pairs in the place of the rule that the settings name.

    Raises:
        ValueError: the config, the data or the model cannot be used; the message says what to change.
        RankFailure: another rank could not be set up.
    """
    if config.train.threads:
        torch.set_num_threads(config.train.threads)
    accelerator, engine = make_accelerator(config)
    watch = Watch(accelerator.process_index, accelerator.num_processes, config.train.timeout)
    with watch.guard():
        return _build(config, accelerator, engine, watch, rule)


def _build(config: RunConfig, accelerator: Any, engine: Engine, watch: Watch, rule: Rule | None) -> Session:
    set_seed(config.train.seed)
    checkpoint = latest_checkpoint(config.output)
    extra = load_extra(accelerator, checkpoint, str(engine)) if checkpoint else {}
    keep_config(config, accelerator, resumed=checkpoint is not None)
    pairs = asked_pairs(config)
    check_prior(config, list(pairs.of_caption) if pairs is not None else [])
    data = _open_data(config, accelerator, extra, watch)
    exchange, denoiser, held_out = Exchange(accelerator.device), data.denoiser, data.held_out
    squares = held_out_squares(config, held_out)
    looked_up = _looked_up(config, denoiser, held_out)
    prior = open_prior(config, denoiser, accelerator, watch)
    pair_filter = _filter(config, denoiser, held_out, exchange, looked_up, rule)
    trained = prepare_model(config, accelerator, engine, denoiser, pair_filter, data.total_steps)
    model, optimizer = trained.model, trained.optimizer
    scorer = Scorer(denoiser, pair_filter, trained.scored, trained.reference, looked_up) if pair_filter else None
    step = int(extra.get("step", 0))
    session = Session(
        config=config,
        accelerator=accelerator,
        engine=engine,
        watch=watch,
        denoiser=denoiser,
        model=model,
        optimizer=optimizer,
        schedule=trained.schedule,
        ema=trained.ema,
        loader=data.loader,
        held_out=held_out,
        filter=pair_filter,
        scorer=scorer,
        trainer=WindowTrainer(accelerator, model, optimizer, denoiser, scorer, exchange, config),
        exchange=exchange,
        records=_records(config, accelerator, step if checkpoint else None),
        tracker=Tracker(config, accelerator, step),
        copies=_copies(config, squares),
        sieve=data.sieve,
        looked_up=looked_up,
        turns=_turns(config, denoiser, pair_filter, held_out, looked_up),
        recall=_recall(
            config, denoiser, trained.scored, pair_filter, pairs, squares + (prior.held_out if prior else [])
        ),
        prior=prior,
        training_rows=_training_rows(config, data.loader, pairs, held_out),
        total_steps=data.total_steps,
    )
    if checkpoint:
        restore(session, checkpoint, extra)
    return session


@dataclass(frozen=True, slots=True)
class _Data:
    """What is trained on, and what turns it into tensors."""

    denoiser: Any
    loader: WindowLoader
    held_out: list[Row]
    sieve: SieveFile | None
    total_steps: int


def _open_data(config: RunConfig, accelerator: Any, extra: dict[str, Any], watch: Watch) -> _Data:
    """Open the model family, the training data and the held-out pairs; ``extra`` is what the checkpoint holds."""
    held_out = enough_held_out(config)
    denoiser = open_family(config, accelerator.device)
    sieve_file, sieve = open_sieve(config, accelerator.process_index, extra.get("sieve"))
    loader = _loader(config, accelerator, extra, sieve, watch)
    watch.show(lambda: loader.alive)
    check_ranks_agree(accelerator, config, loader)
    total_steps = config.train.steps or loader.windows_per_pass() * (config.train.epochs or 1)
    denoiser = cached(config, denoiser, loader.source, held_out, accelerator, watch)
    return _Data(denoiser, loader, held_out, sieve_file, total_steps)


def _records(config: RunConfig, accelerator: Any, resumed_at: int | None) -> Records:
    return Records(
        config.output, accelerator.process_index, accelerator.num_processes, resumed_at, config.filter.ledger_kept
    )


def _loader(
    config: RunConfig, accelerator: Any, extra: dict[str, Any], sieve: Sieve | None, watch: Watch
) -> WindowLoader:
    rows_per_window = config.train.batch_size * config.train.accumulation * accelerator.num_processes
    return WindowLoader(
        config.data,
        rows_per_window,
        Ranks(accelerator.process_index, accelerator.num_processes, Exchange(accelerator.device), watch.meet),
        seed=config.train.seed,
        max_epochs=config.train.epochs,
        state=extra.get("data"),
        sieve=sieve,
    )


def _copies(config: RunConfig, held_out: list[Row]) -> CopyProbe | None:
    if not config.validation.copy_groups:
        return None
    return CopyProbe(config.data, held_out, config.validation.copy_groups, config.validation.copy_bank)


def _looked_up(config: RunConfig, denoiser: Any, held_out: list[Row]) -> LookedUpReference | None:
    """The reference from audits; None where it is a copy, or no signal needs one.

    Raises:
        SettingsError: the audits are not of this model, data or seed, or lack held-out pairs.
    """
    options = config.filter
    if not options.enabled or not options.audits:
        return None
    if config.train.random_tokens:
        raise SettingsError(
            "filter.reference: an audit scored plain captions, and train.random_tokens changes them; set it to 0, or "
            "filter.reference: frozen"
        )
    model = {"hash": total_hash(model_hashes(denoiser)), "latent_shape": denoiser.latent_shape(config.data.resolution)}
    reference = LookedUpReference(options.audits, model, config.data, config.train.seed)
    missing = [row.key for row in held_out if not reference.knows(row.group, row.caption)]
    if missing:
        raise SettingsError(
            f"filter.reference: {len(missing)} of {len(held_out)} held-out pairs are not in {options.audits}, the "
            f"first '{missing[0]}'; audit data.held_out_path too, and name both audits"
        )
    return reference


def _filter(
    config: RunConfig,
    denoiser: Any,
    held_out: list[Row],
    exchange: Exchange,
    looked_up: LookedUpReference | None,
    rule: Rule | None,
) -> MemorizationFilter | None:
    if not config.filter.enabled:
        return None
    pair_filter = MemorizationFilter(
        config.filter,
        num_train_timesteps=denoiser.num_train_timesteps,
        exchange=exchange,
        audited=looked_up.draws if looked_up is not None else None,
        rule=rule,
    )
    pair_filter.held_out.check(len(held_out))
    return pair_filter


def _turns(
    config: RunConfig,
    denoiser: Any,
    pair_filter: MemorizationFilter | None,
    held_out: list[Row],
    looked_up: LookedUpReference | None,
) -> HeldOutTurns | None:
    """Held-out pairs are scored where something is compared with them."""
    if pair_filter is None or pair_filter.config.rule in ("threshold", "recall") or not held_out:
        return None
    return HeldOutTurns(denoiser, pair_filter, held_out, config, looked_up)


def _training_rows(
    config: RunConfig, loader: WindowLoader, pairs: TrainingPairs | None, held_out: list[Row]
) -> list[Row]:
    """As many training pairs as held-out ones are looked at."""
    most = config.validation.held_out_pairs
    if pairs is not None and config.data.buckets is None:
        return pairs.rows[:most]
    if pairs is None:
        most = min(most, len(held_out))
    return training_pairs(config.data, most, loader.source, loader.held_out).rows if most else []


def _recall(
    config: RunConfig,
    denoiser: Any,
    model: torch.nn.Module,
    pair_filter: MemorizationFilter | None,
    pairs: TrainingPairs | None,
    held_out: list[Row],
) -> RecallProbe | None:
    """The model is asked where the rule goes by what it answers."""
    if pair_filter is None or pairs is None or not isinstance(pair_filter.rule, RecallRule):
        return None
    return RecallProbe(denoiser, model, pair_filter.rule, config, pairs, held_out, pair_filter.exchange)
