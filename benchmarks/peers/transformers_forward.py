"""RT-DETR as Hugging Face transformers has it, random weights: rt-detr-r18, -r50, -r101. Environment of its own:
pip install -r benchmarks/peers/transformers.txt. Nothing is downloaded: configurations are of the published shapes.

    hsvdet benchmark hsv-det-l --peer 'PYTHON benchmarks/peers/transformers_forward.py rt-detr-r50'
"""

from forward import race

# Table A of the paper (arXiv 2304.08069): the encoder's width and depth grow with the backbone.
SHAPES = {
    "rt-detr-r18": dict(
        backbone=dict(depths=[2, 2, 2, 2], layer_type="basic", hidden_sizes=[64, 128, 256, 512]),
        encoder_in_channels=[128, 256, 512],
        hidden_expansion=0.5,
        decoder_layers=3,
    ),
    "rt-detr-r50": dict(backbone=dict(depths=[3, 4, 6, 3])),
    "rt-detr-r101": dict(
        decoder_in_channels=[384, 384, 384],
        backbone=dict(depths=[3, 4, 23, 3]),
        encoder_hidden_dim=384,
        encoder_ffn_dim=2048,
    ),
}


def network(name: str, height: int, width: int):
    from transformers import RTDetrConfig, RTDetrForObjectDetection, RTDetrResNetConfig

    shape = dict(SHAPES[name])
    backbone = RTDetrResNetConfig(out_features=["stage2", "stage3", "stage4"], **shape.pop("backbone"))
    config = RTDetrConfig(backbone_config=backbone, num_labels=80, anchor_image_size=[height, width], **shape)
    return RTDetrForObjectDetection(config)


if __name__ == "__main__":
    race(__doc__, network)
