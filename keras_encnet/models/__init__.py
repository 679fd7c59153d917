"""The network: a dilated ResNet (`resnet`), the two heads (`heads`), and `EncNet`, which joins them.

`keras_encnet.EncNet` is the class; `keras_encnet.models.encnet` is where to start reading.
"""
