"""The methods, by the name used on the command line, in search spaces and in tables. One file per method."""

from raystudy.learn.method import Method
from raystudy.learn.methods.apl import APL
from raystudy.learn.methods.augdesc import AugDesc
from raystudy.learn.methods.b_correction import BCorrection
from raystudy.learn.methods.bootstrap import Bootstrap
from raystudy.learn.methods.cal import CAL
from raystudy.learn.methods.ce import CE
from raystudy.learn.methods.cores import CORES
from raystudy.learn.methods.coteaching import CoTeaching
from raystudy.learn.methods.coteaching_plus import CoTeachingPlus
from raystudy.learn.methods.decoupling import Decoupling
from raystudy.learn.methods.disc import DISC
from raystudy.learn.methods.dividemix import DivideMix
from raystudy.learn.methods.dropout import Dropout
from raystudy.learn.methods.elr import ELR
from raystudy.learn.methods.elr_plus import ELRPlus
from raystudy.learn.methods.f_correction import FCorrection
from raystudy.learn.methods.f_divergence import FDivergence
from raystudy.learn.methods.focal import Focal
from raystudy.learn.methods.gce import GCE
from raystudy.learn.methods.incv import INCV
from raystudy.learn.methods.jocor import JoCoR
from raystudy.learn.methods.label_smoothing import LabelSmoothing
from raystudy.learn.methods.longremix import LongReMix
from raystudy.learn.methods.m_correction import MCorrection
from raystudy.learn.methods.mae import MAE
from raystudy.learn.methods.mentormix import MentorMix
from raystudy.learn.methods.mentornet_dd import MentorNetDD
from raystudy.learn.methods.mentornet_pd import MentorNetPD
from raystudy.learn.methods.meta_learning import MetaLearning
from raystudy.learn.methods.mixup import Mixup
from raystudy.learn.methods.negative_label_smoothing import NegativeLabelSmoothing
from raystudy.learn.methods.p_correction import PCorrection
from raystudy.learn.methods.peer_loss import PeerLoss
from raystudy.learn.methods.pes import PES
from raystudy.learn.methods.promix import ProMix
from raystudy.learn.methods.s_model import SModel
from raystudy.learn.methods.sce import SCE
from raystudy.learn.methods.self_paced import SelfPaced
from raystudy.learn.methods.sop import SOP
from raystudy.learn.methods.sop_plus import SOPPlus
from raystudy.learn.methods.spade import Spade
from raystudy.learn.methods.ssr import SSR
from raystudy.learn.methods.t_revision import TRevision
from raystudy.learn.methods.unicon import Unicon
from raystudy.learn.methods.volminnet import VolMinNet
from raystudy.learn.methods.weight_decay import WeightDecay

METHODS: dict[str, type[Method]] = {
    "apl": APL,
    "augdesc": AugDesc,
    "b_correction": BCorrection,
    "bootstrap": Bootstrap,
    "cal": CAL,
    "ce": CE,
    "cores": CORES,
    "coteaching": CoTeaching,
    "coteaching_plus": CoTeachingPlus,
    "decoupling": Decoupling,
    "disc": DISC,
    "dividemix": DivideMix,
    "dropout": Dropout,
    "elr": ELR,
    "elr_plus": ELRPlus,
    "f_correction": FCorrection,
    "f_divergence": FDivergence,
    "focal": Focal,
    "gce": GCE,
    "incv": INCV,
    "jocor": JoCoR,
    "label_smoothing": LabelSmoothing,
    "longremix": LongReMix,
    "m_correction": MCorrection,
    "mae": MAE,
    "mentormix": MentorMix,
    "mentornet_dd": MentorNetDD,
    "mentornet_pd": MentorNetPD,
    "meta_learning": MetaLearning,
    "mixup": Mixup,
    "negative_label_smoothing": NegativeLabelSmoothing,
    "p_correction": PCorrection,
    "peer_loss": PeerLoss,
    "pes": PES,
    "promix": ProMix,
    "s_model": SModel,
    "sce": SCE,
    "self_paced": SelfPaced,
    "sop": SOP,
    "sop_plus": SOPPlus,
    "spade": Spade,
    "ssr": SSR,
    "t_revision": TRevision,
    "unicon": Unicon,
    "volminnet": VolMinNet,
    "weight_decay": WeightDecay,
}
