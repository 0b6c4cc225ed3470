"""The training loop: draw a batch, ask the model for loss and gradients, update each parameter."""

import copy

from xpcap.cs231n.reference import optim
from xpcap.cs231n.reference.coco_utils import sample_coco_minibatch


class CaptioningSolver:
    """Trains a model that has `params` and `loss(features, captions) -> loss, grads`."""

    def __init__(
        self,
        model,
        data,
        update_rule="sgd",
        optim_config=None,
        lr_decay=1.0,
        batch_size=100,
        num_epochs=10,
        print_every=10,
        verbose=True,
    ):
        """An epoch has as many batches as fit into the training captions, at least one."""
        if not hasattr(optim, update_rule):
            raise ValueError(f'update_rule is "{update_rule}", which optim does not have')
        self.model, self.data = model, data
        self.update_rule = getattr(optim, update_rule)
        self.lr_decay, self.batch_size, self.num_epochs = lr_decay, batch_size, num_epochs
        self.print_every, self.verbose = print_every, verbose
        self.epoch = 0
        self.loss_history = []
        self.optim_configs = {name: copy.deepcopy(optim_config or {}) for name in model.params}

    def _step(self):
        """One update of every parameter."""
        captions, features, _ = sample_coco_minibatch(
            self.data, batch_size=self.batch_size, split="train"
        )
        loss, grads = self.model.loss(features, captions)
        self.loss_history.append(loss)
        for name, w in self.model.params.items():
            config = self.optim_configs[name]
            self.model.params[name], self.optim_configs[name] = self.update_rule(
                w, grads[name], config
            )

    def train(self):
        """Run all epochs; after each, every learning rate is multiplied by `lr_decay`."""
        per_epoch = max(len(self.data["train_captions"]) // self.batch_size, 1)
        iterations = self.num_epochs * per_epoch
        for iteration in range(iterations):
            self._step()
            if self.verbose and iteration % self.print_every == 0:
                loss = self.loss_history[-1]
                print(f"(Iteration {iteration + 1} / {iterations}) loss: {loss:f}")
            if (iteration + 1) % per_epoch == 0:
                self.epoch += 1
                for config in self.optim_configs.values():
                    config["learning_rate"] *= self.lr_decay
