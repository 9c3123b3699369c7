"""The recipes of the papers whose config files differ in little but the data set."""

from jaxreid.config import Config, Data, Eval, Optim, Train
from jaxreid.models import attention_driven, bot, cosam, jst_rnn, osnet, siamese_attention, vit


def cosam_config(data_set: str) -> Config:
    """The released code's training and section 6.3's scoring: SE-ResNet-50 + COSAM 4,5 + TP.

    Args:
        data_set: `config.data.name`.
    """
    return Config(
        model=cosam.Config(backbone="se_resnet50", blocks=(4, 5), head="tp"),
        data=Data(
            name=data_set,
            image_size=(256, 128),
            enlarge=1.125,
            enlarge_probability=0.5,
            num_ids=8,
            num_instances=4,
            clip_length=4,
            clip_draw="frame",  # the released code draws for each frame
            check=False,  # `python -m jaxreid.prepare --check` decodes every file once
        ),
        optim=Optim(name="adam", lr=3e-4, weight_decay=5e-4, decay_epochs=(200, 400, 600)),
        train=Train(epochs=800),
        eval=Eval(clips="all", batch_size=32),
    )


def jst_rnn_config(data_set: str, decay_epochs: tuple[int, ...]) -> Config:
    """Caffe's fine-tuning example, since the paper gives no schedule: 60 k steps.

    Args:
        data_set: `config.data.name`.
        decay_epochs: the epochs of steps 20 k and 40 k.
    """
    return Config(
        model=jst_rnn.Config(),
        data=Data(
            name=data_set,
            image_size=(227, 227),
            enlarge=1.0,  # section 4.2: mirroring alone
            positives="cross_camera",  # section 4.2: a query of camera A, a candidate of camera B
            num_ids=8,
            num_instances=4,
            clip_length=6,
            check=False,  # `python -m jaxreid.prepare --check` decodes every file once
        ),
        optim=Optim(
            name="sgd",
            lr=1e-3,
            momentum=0.9,
            weight_decay=5e-4,
            decay_epochs=decay_epochs,
            head_lr_scale=10.0,
            bias_lr_scale=2.0,
            bias_decay=False,
        ),
        train=Train(steps=60_000),
        # The pair network compares a query with this many gallery tracklets at once.
        eval=Eval(clips="central", query_block=16, gallery_block=64),
    )


def jst_rnn_fine_tuning(data_set: str, decay_epochs: tuple[int, ...]) -> Config:
    """Section 4.4: a network that was trained on MARS, on a small set of two cameras.

    A person has one tracklet in each camera there, so K = 2 makes every positive pair one of a
    query of camera A and a candidate of camera B, as in section 4.2. No layer is new, so none has
    the tenfold rate. The paper prints no schedule: a tenth of the steps on MARS are ours.

    Args:
        data_set: `config.data.name`.
        decay_epochs: the epochs of steps 2 k and 4 k.
    """
    config = jst_rnn_config(data_set, decay_epochs)
    config.data.num_ids, config.data.num_instances = 16, 2
    config.optim.head_lr_scale = 1.0
    config.train.steps, config.train.from_scratch = 6_000, False
    return config


def siamese_attention_config(data_set: str, epochs: int) -> Config:
    """Section V-B, with what the code that it follows has where it is silent.

    "The whole set of parameters are trained", the backbone's among them.

    Args:
        data_set: `config.data.name`.
        epochs: in which each person is once in a pair of its own.
    """
    return Config(
        model=siamese_attention.Config(test_conditions=16),
        data=Data(
            name=data_set,
            image_size=(224, 224),
            shift=0.05,  # besides the crops, of a size that the paper does not print
            sampling="pairs",
            num_ids=5,
            num_instances=4,
            clip_length=20,
            check=False,  # `python -m jaxreid.prepare --check` decodes every file once
        ),
        optim=Optim(
            name="rmsprop",
            lr=1e-4,
            momentum=0.9,
            weight_decay=0.0,
            grad_clip=5.0,
        ),
        train=Train(epochs=epochs),
        eval=Eval(clips="first_last", clip_length=128, batch_size=4),
    )


def attention_driven_config(data_set: str, image_size: tuple[int, int]) -> Config:
    """Section 4.1: all of the network, with lambda = 0.5 and beta = H/10.

    Args:
        data_set: `config.data.name`.
        image_size: (height, width) that files are decoded to. The branches' crops, of sizes that
            the paper gives, are cut from that.
    """
    return Config(
        model=attention_driven.Config(),
        data=Data(
            name=data_set,
            image_size=image_size,
            enlarge=1.0,  # section 4.1 has neither crops nor mirroring
            flip=False,
            sampling="shuffle",
            num_ids=8,  # batches of 8 x 4 images
            num_instances=4,
            joints="joints.npz",
        ),
        # The paper prints neither momentum nor weight decay.
        optim=Optim(name="sgd", lr=0.01, momentum=0.9, weight_decay=5e-4, decay_epochs=(40, 80)),
        train=Train(epochs=100),
        eval=Eval(ap="trapezoid"),  # section 4.1: the protocol of Market-1501's authors
    )


def osnet_config(data_set: str) -> Config:
    """Section 4.1's fine-tuning from ImageNet, as the released code has it.

    Args:
        data_set: `config.data.name`.
    """
    return Config(
        model=osnet.Config(),
        data=Data(
            name=data_set,
            image_size=(256, 128),
            enlarge=1.0,  # mirroring alone
            sampling="shuffle",
            num_ids=16,  # batches of 16 x 4 images
            num_instances=4,
        ),
        optim=Optim(
            name="amsgrad",
            lr=1.5e-3,
            weight_decay=5e-4,
            frozen_epochs=10,
            decay_epochs=(60, 120),
        ),
        train=Train(epochs=150),
    )


def bot_config(data_set: str, passes: int) -> Config:
    """All tricks of BoT, sections 2 and 3: Adam for 120 epochs with steps of 64 images.

    Args:
        data_set: `config.data.name`.
        passes: epochs of ours, in which each person is drawn once, in one of the released sampler,
            in which each image is drawn about once.
    """
    return Config(
        model=bot.Config(),
        data=Data(
            name=data_set,
            image_size=(256, 128),
            enlarge=1.0,
            pad=10,  # "zero-padded by 10 pixels", and cropped at random
            erase=0.5,
            num_ids=16,
            num_instances=4,
        ),
        optim=Optim(
            name="adam",
            lr=3.5e-4,
            weight_decay=5e-4,  # the released code's
            warmup=10 * passes,
            decay_epochs=(40 * passes, 70 * passes),
        ),
        train=Train(epochs=120 * passes),
    )


def transreid_config(data_set: str, passes: int, cameras: int) -> Config:
    """TransReID's section 4.2, with what the released configs have where it is silent.

    Args:
        data_set: `config.data.name`.
        passes: epochs of ours, in which each person is drawn once, in one of the released sampler,
            in which each image is drawn about once.
        cameras: of the training set.
    """
    return Config(
        model=vit.Config(stride=12, sie=3.0, cameras=cameras, jpm=True),
        data=Data(
            name=data_set,
            image_size=(256, 128),
            enlarge=1.0,
            pad=10,
            erase=0.5,
            num_ids=16,
            num_instances=4,
        ),
        optim=Optim(
            name="sgd",
            lr=8e-3,
            momentum=0.9,
            weight_decay=1e-4,
            bias_lr_scale=2.0,
            warmup=5 * passes,
            decay="cosine",
            decay_factor=2e-3,
        ),
        train=Train(epochs=120 * passes),
    )
