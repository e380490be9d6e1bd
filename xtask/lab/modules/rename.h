/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The AP bus that is built in exports these names, so the copy of it in aplab exports others. The list is that of
 * EXPORT_SYMBOL() in ap_bus.c, ap_card.c and ap_queue.c of v5.10, v6.1, v6.12 and v7.2; a name that a release does not have
 * renames nothing.
 */
#define ap_apqn_in_matrix_owned_by_def_drv lab_ap_apqn_in_matrix_owned_by_def_drv
#define ap_attr_mutex lab_ap_attr_mutex
#define ap_bus_force_rescan lab_ap_bus_force_rescan
#define ap_cancel_message lab_ap_cancel_message
#define ap_domain_index lab_ap_domain_index
#define ap_driver_register lab_ap_driver_register
#define ap_driver_unregister lab_ap_driver_unregister
#define ap_flush_queue lab_ap_flush_queue
#define ap_get_qdev lab_ap_get_qdev
#define ap_hex2bitmap lab_ap_hex2bitmap
#define ap_init_apmsg lab_ap_init_apmsg
#define ap_is_se_guest lab_ap_is_se_guest
#define ap_max_msg_size lab_ap_max_msg_size
#define ap_owned_by_def_drv lab_ap_owned_by_def_drv
#define ap_parse_mask_str lab_ap_parse_mask_str
#define ap_perms lab_ap_perms
#define ap_perms_mutex lab_ap_perms_mutex
#define ap_queue_init_reply lab_ap_queue_init_reply
#define ap_queue_init_state lab_ap_queue_init_state
#define ap_queue_message lab_ap_queue_message
#define ap_queue_usable lab_ap_queue_usable
#define ap_recv lab_ap_recv
#define ap_release_apmsg lab_ap_release_apmsg
#define ap_send lab_ap_send
#define ap_send_config_uevent lab_ap_send_config_uevent
#define ap_send_online_uevent lab_ap_send_online_uevent
#define ap_test_config_ctrl_domain lab_ap_test_config_ctrl_domain
#define ap_test_config_usage_domain lab_ap_test_config_usage_domain
#define ap_wait_apqn_bindings_complete lab_ap_wait_apqn_bindings_complete
#define ap_wait_init_apqn_bindings_complete lab_ap_wait_init_apqn_bindings_complete
