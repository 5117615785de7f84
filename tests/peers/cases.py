"""Where each case of the peers' tests of recurrent layers is tested here, and why the others have no counterpart.

The first part of a name is a file of the peer (flax 0.12.8, PyTorch up to 2.13, Keras in August 2026), the second its
test function; `*` stands for any text. Inputs of PyTorch's module tests are named by the function that makes them.
"""

FLAX = "tests/nnx/nn/recurrent_test.py"
MODULES = "test/test_modules.py"
INPUTS = "torch/testing/_internal/common_modules.py"
NN = "test/test_nn.py"
PACKED = "test/nn/test_packed_sequence.py"
KERAS = "keras/src/layers/rnn"

TESTED = {
    f"{FLAX}::TestLSTMCell.test_basic": "test_flax_nnx.py::test_one_step_at_a_time_equals_the_sequence",
    f"{FLAX}::TestLSTMCell.test_lstm_sequence": "test_flax_nnx.py::test_one_step_at_a_time_equals_the_sequence",
    f"{FLAX}::TestLSTMCell.test_lstm_stateful": "test_flax_nnx.py::test_one_step_at_a_time_equals_the_sequence",
    f"{FLAX}::TestLSTMCell.test_lstm_with_different_dtypes": "test_flax_nnx.py::test_narrow_numbers_stay_narrow",
    f"{FLAX}::TestLSTMCell.test_lstm_with_custom_activations": "test_flax_nnx.py::test_any_function_is_an_activation",
    f"{FLAX}::TestLSTMCell.test_lstm_initialize_carry": (
        "test_flax_nnx.py::test_rows_begin_with_the_carry_that_they_are_given"
    ),
    f"{FLAX}::TestLSTMCell.test_lstm_with_variable_sequence_length": (
        "test_flax_nnx.py::test_padded_rows_end_where_their_length_says"
    ),
    f"{FLAX}::*.test_*_equivalence_with_flax_linen": "../engine/test_peers.py::test_outputs_and_gradients_equal_flax",
    f"{FLAX}::TestRNN.test_rnn_with_*_cell": "../engine/test_peers.py::test_outputs_and_gradients_equal_flax",
    f"{FLAX}::TestRNN.test_rnn_time_major": "test_flax_nnx.py::test_padded_rows_end_where_their_length_says",
    f"{FLAX}::TestRNN.test_rnn_reverse": "test_flax_nnx.py::test_padded_rows_end_where_their_length_says",
    f"{FLAX}::TestRNN.test_rnn_with_keep_order": "test_flax_nnx.py::test_padded_rows_end_where_their_length_says",
    f"{FLAX}::TestRNN.test_rnn_with_seq_lengths": "test_flax_nnx.py::test_padded_rows_end_where_their_length_says",
    f"{FLAX}::TestRNN.test_rnn_with_unroll": "test_flax_nnx.py::test_steps_in_one_iteration_change_nothing",
    f"{FLAX}::TestRNN.test_rnn_with_custom_cell": "test_flax_nnx.py::test_a_cell_of_ones_own_is_unrolled",
    f"{FLAX}::TestRNN.test_rnn_with_different_dtypes": "test_flax_nnx.py::test_narrow_numbers_stay_narrow",
    f"{FLAX}::TestRNN.test_rnn_with_variable_batch_size": "test_flax_nnx.py::test_the_number_of_rows_is_free",
    f"{FLAX}::TestRNN.test_recurrent_dropout": (
        "../nn/test_dropout.py::test_state_dropout_is_one_mask_a_sequence_on_the_state_where_it_meets_the_kernel"
    ),
    f"{NN}::test_RNN_cell": "../engine/test_peers.py::test_outputs_and_gradients_equal_torch",
    f"{NN}::test_LSTM_cell": "../engine/test_peers.py::test_outputs_and_gradients_equal_torch",
    f"{NN}::test_RNN_cell_no_broadcasting": "test_torch_nn.py::test_inputs_and_carries_that_do_not_fit_are_refused",
    f"{NN}::test_*_cell_forward_input_size": "test_torch_nn.py::test_inputs_and_carries_that_do_not_fit_are_refused",
    f"{NN}::test_*_cell_forward_hidden_size": "test_torch_nn.py::test_inputs_and_carries_that_do_not_fit_are_refused",
    f"{NN}::test_rnn_args_check": "test_torch_nn.py::test_inputs_and_carries_that_do_not_fit_are_refused",
    f"{NN}::test_RNN_input_size_zero": ("test_torch_nn.py::test_sizes_that_are_no_positive_whole_numbers_are_refused"),
    f"{NN}::test_rnn_initial_hidden_state": "test_torch_nn.py::test_without_a_carry_rows_begin_with_zeros",
    f"{NN}::test_variable_sequence": ("test_torch_nn.py::test_rows_of_different_lengths_equal_each_row_by_itself"),
    f"{NN}::test_rnn_retain_variables": "test_torch_nn.py::test_a_gradient_can_be_taken_again",
    f"{NN}::test_*_grad_and_gradgrad": (
        "../cells/test_cells.py::test_forward_mode_and_second_derivatives_work_on_reference"
    ),
    f"{NN}::test_lstmcell_backward_only_one_output_grad": (
        "test_torch_nn.py::test_a_loss_of_one_element_of_the_carry_alone_has_its_gradient"
    ),
    f"{NN}::test_RNN_dropout*": (
        "test_torch_nn.py::test_dropout_between_layers_is_on_in_training_alone_and_another_at_every_step"
    ),
    f"{NN}::test_invalid_dropout_p": "../nn/test_dropout.py::test_rates_outside_their_range_are_refused",
    f"{NN}::test_RNN_nonlinearity*": "../engine/test_peers.py::test_outputs_and_gradients_equal_torch",
    f"{MODULES}::test_forward": "../engine/test_peers.py::test_outputs_and_gradients_equal_torch",
    f"{MODULES}::test_grad": "../cells/test_cells.py::test_reference_gradients_equal_finite_differences",
    f"{MODULES}::test_gradgrad": "../cells/test_cells.py::test_forward_mode_and_second_derivatives_work_on_reference",
    f"{MODULES}::test_pickle": "test_torch_nn.py::test_saved_layers_put_out_the_same",
    f"{MODULES}::test_save_load": "test_torch_nn.py::test_saved_layers_put_out_the_same",
    f"{MODULES}::test_if_train_and_eval_modes_differ": (
        "test_torch_nn.py::test_dropout_between_layers_is_on_in_training_alone_and_another_at_every_step"
    ),
    f"{INPUTS}::module_error_inputs_torch_nn_RNN_GRU": (
        "test_torch_nn.py::test_sizes_that_are_no_positive_whole_numbers_are_refused"
    ),
    f"{INPUTS}::module_error_inputs_torch_nn_RNN_GRU, num_layers": "test_torch_nn.py::test_no_layers_are_refused",
    f"{INPUTS}::module_error_inputs_torch_nn_RNN_GRU_Cell": (
        "test_torch_nn.py::test_inputs_and_carries_that_do_not_fit_are_refused"
    ),
    f"{INPUTS}::module_error_inputs_torch_nn_LSTMCell": (
        "test_torch_nn.py::test_inputs_and_carries_that_do_not_fit_are_refused"
    ),
    f"{KERAS}/*::test_basics": "../nn/test_network.py::test_outputs_have_the_readouts_shape",
    f"{KERAS}/rnn_test.py::test_compute_output_shape_*": (
        "../nn/test_network.py::test_outputs_have_the_readouts_shape"
    ),
    f"{KERAS}/simple_rnn_test.py::test_*": "test_keras.py::test_last_outputs_are_those_that_keras_expects",
    f"{KERAS}/lstm_test.py::test_*": "test_keras.py::test_last_outputs_are_those_that_keras_expects",
    f"{KERAS}/gru_test.py::test_*": "test_keras.py::test_last_outputs_are_those_that_keras_expects",
    f"{KERAS}/*::test_masking": "test_keras.py::test_masked_steps_put_out_zeros_and_keep_the_state",
    f"{KERAS}/bidirectional_test.py::test_correctness": "test_keras.py::test_both_directions_stand_side_by_side",
    f"{KERAS}/bidirectional_test.py::test_statefulness": "test_keras.py::test_both_directions_go_on_from_their_carries",
    f"{KERAS}/bidirectional_test.py::test_pass_initial_state": (
        "test_keras.py::test_both_directions_go_on_from_their_carries"
    ),
    f"{KERAS}/bidirectional_test.py::test_return_state": "test_keras.py::test_both_directions_go_on_from_their_carries",
    f"{KERAS}/bidirectional_test.py::test_masking": (
        "../nn/test_network.py::test_each_row_equals_itself_cut_to_its_length"
    ),
    f"{KERAS}/bidirectional_test.py::test_output_shape": "../nn/test_network.py::test_outputs_have_the_readouts_shape",
    f"{KERAS}/rnn_test.py::test_forward_pass_*": "test_keras.py::test_cells_of_ones_count",
    f"{KERAS}/rnn_test.py::test_passing_initial_state_*": "test_keras.py::test_cells_of_ones_count",
    f"{KERAS}/rnn_test.py::test_statefulness_*": "test_keras.py::test_cells_of_ones_count",
    f"{KERAS}/rnn_test.py::test_go_backwards": "test_keras.py::test_cells_of_ones_count",
    f"{KERAS}/rnn_test.py::test_serialization": "../cells/test_cells.py::test_copies_of_a_cell_put_out_the_same",
    f"{KERAS}/rnn_test.py::test_stateful_batch_size_mismatch_raises": (
        "test_torch_nn.py::test_inputs_and_carries_that_do_not_fit_are_refused"
    ),
    f"{KERAS}/stacked_rnn_cells_test.py::test_correctness_*": (
        "test_keras.py::test_layers_of_different_widths_stand_on_each_other"
    ),
    f"{KERAS}/stacked_rnn_cells_test.py::test_statefullness_*": (
        "test_keras.py::test_layers_of_different_widths_stand_on_each_other"
    ),
    f"{KERAS}/stacked_rnn_cells_test.py::test_return_state_stacked_lstm_cell": (
        "test_keras.py::test_layers_of_different_widths_stand_on_each_other"
    ),
    f"{KERAS}/stacked_rnn_cells_test.py::test_stacked_lstm_cell_mask": "test_keras.py::test_a_mask_reaches_every_layer",
    f"{KERAS}/dropout_rnn_cell_test.py::test_*": (
        "../nn/test_dropout.py::test_state_dropout_is_one_mask_a_sequence_on_the_state_where_it_meets_the_kernel"
    ),
}
"""Case of a peer -> file::function of ours, from this folder."""

WITHOUT_COUNTERPART = {
    f"{NN}::test_RNN_cell_forward_zero_hidden_size": "a cell of no units is refused",
    f"{NN}::test_projections_*": "rnnlab has no LSTM with a projected state",
    f"{NN}::test_rnn_check_device": "JAX places arrays; parameters have no device of their own",
    f"{NN}::test_rnn_weight_norm": "rnnlab has no weight normalisation",
    f"{NN}::test_RNN_change_dropout": "a network keeps the rates that it was made with",
    f"{NN}::test_rnn_fused": "rnnlab's backends are compared with each other in tests/cells/test_cells.py",
    f"{NN}::test_*cudnn*": "rnnlab calls no cuDNN",
    f"{NN}::test_LSTM_differentiable_backward_using_oneDNN": "rnnlab calls no oneDNN",
    f"{PACKED}::test_*": "there is no packed object: rnnlab takes lengths, in any order",
    f"{MODULES}::test_memory_format": "arrays of JAX have no memory format",
    f"{MODULES}::test_non_contiguous_tensors": "arrays of JAX have no strides",
    f"{MODULES}::test_check_inplace": "nothing is computed in place",
    f"{MODULES}::test_factory_kwargs": "parameters are drawn in float32 and cast",
    f"{MODULES}::test_cpu_gpu_parity": "the tests have processors alone; python -m rnnlab.selfcheck runs on any device",
    f"{MODULES}::test_to*": "JAX places arrays",
    f"{MODULES}::test_repr": "NNX prints modules",
    f"{INPUTS}::module_inputs_torch_nn_*, no batch axis": "x always has its axis of rows: x[:, None]",
    f"{INPUTS}::module_inputs_torch_nn_*, bias=False": "a bias of zeros that is not trained is no option of a cell",
    f"{INPUTS}::module_error_inputs_torch_nn_RNN_GRU, dtypes": "numbers are promoted as everywhere in JAX",
    f"{KERAS}/gru_test.py::test_legacy_implementation_argument": "is of Keras' own configs",
    f"{KERAS}/gru_test.py::test_stateful_with_symbolic_batch_size": "is of TensorFlow's graphs",
    f"{KERAS}/gru_test.py::test_torch_cudnn_dispatch_fires": "rnnlab calls no cuDNN",
    f"{KERAS}/bidirectional_test.py::test_keeps_use_cudnn": "rnnlab calls no cuDNN",
    f"{KERAS}/bidirectional_test.py::test_fused_*": "rnnlab calls no cuDNN",
    f"{KERAS}/bidirectional_test.py::test_torch_cudnn_*": "rnnlab calls no cuDNN",
    f"{KERAS}/rnn_test.py::test_dynamic_shapes": "shapes are known where JAX compiles",
    f"{KERAS}/time_distributed_test.py::test_*": "linear maps take any leading axes; there is no such layer",
    f"{KERAS}/conv_lstm*_test.py::test_*": "rnnlab has no convolutional cell",
}
"""Case of a peer -> why rnnlab has nothing that it could be a test of."""
